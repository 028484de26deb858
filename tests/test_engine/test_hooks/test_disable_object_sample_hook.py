from types import SimpleNamespace

import pytest
from mmengine.runner import IterBasedTrainLoop

from bevfusion_plugin.engine.hooks.disable_object_sample_hook import DisableObjectSampleHook


def runner_at(epoch, transforms, wrappers=2):
    dataset = SimpleNamespace(pipeline=SimpleNamespace(transforms=transforms))
    for _ in range(wrappers):
        dataset = SimpleNamespace(dataset=dataset)
    return SimpleNamespace(
        epoch=epoch,
        train_loop=None,
        train_dataloader=SimpleNamespace(dataset=dataset, _iterator='workers'),
        logger=SimpleNamespace(info=lambda text: None),
    )


@pytest.mark.parametrize('epoch, disabled', [(0, False), (14, False), (15, True), (17, True)])
def test_pasting_ends_from_the_epoch_on_also_after_a_resume(epoch, disabled):
    paste, other = SimpleNamespace(disabled=False), SimpleNamespace()
    runner = runner_at(epoch, [other, paste])
    DisableObjectSampleHook(15).before_train_epoch(runner)
    assert paste.disabled is disabled
    assert (runner.train_dataloader._iterator is None) is disabled, 'workers must be restarted to see the change'


def test_pasting_ends_in_every_data_set_of_a_concatenation():
    pastes = [SimpleNamespace(disabled=False), SimpleNamespace(disabled=False)]
    several = [runner_at(0, [paste]).train_dataloader.dataset for paste in pastes]
    runner = runner_at(15, [])
    runner.train_dataloader.dataset = SimpleNamespace(dataset=SimpleNamespace(datasets=several))
    DisableObjectSampleHook(15).before_train(runner)
    DisableObjectSampleHook(15).before_train_epoch(runner)
    assert all(paste.disabled for paste in pastes)


def test_workers_are_restarted_once_only():
    runner = runner_at(16, [SimpleNamespace(disabled=True)])
    DisableObjectSampleHook(15).before_train_epoch(runner)
    assert runner.train_dataloader._iterator == 'workers'


def test_a_pipeline_without_pasting_is_refused():
    with pytest.raises(ValueError, match='has no ObjectSample'):
        DisableObjectSampleHook(15).before_train(runner_at(0, [SimpleNamespace()]))


def test_a_loop_over_iterations_is_refused_as_it_never_begins_another_epoch():
    runner = runner_at(0, [SimpleNamespace(disabled=False)])
    runner.train_loop = IterBasedTrainLoop.__new__(IterBasedTrainLoop)
    with pytest.raises(ValueError, match='train_cfg.by_epoch=True'):
        DisableObjectSampleHook(15).before_train(runner)


def test_negative_epoch_is_refused():
    with pytest.raises(ValueError, match='disable_after_epoch must be an int >= 0, got -1'):
        DisableObjectSampleHook(-1)
