import pickle
from fractions import Fraction

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.evaluator import BaseMetric
from mmengine.logging import HistoryBuffer
from toy_training import toy_runner, validation_loader

from bevfusion_plugin.engine.checkpoints.safe_loading import allow_checkpoint_types, checkpoint_globals, listed_attribute, under_its_name

SCHEDULERS = [
    dict(type='OneCycleLR', eta_max=0.1, total_steps=16, by_epoch=False),
    dict(type='LinearMomentum', start_factor=0.5, end=3, by_epoch=False),
    dict(type='ReduceOnPlateauLR', monitor='acc', rule='greater', patience=0),
]
VALIDATION = dict(val_cfg=dict(), val_dataloader=validation_loader())


class AccuracyMetric(BaseMetric):
    """A numpy accuracy, which is what real metrics leave in the checkpoint as the best one."""

    def process(self, data_batch, data_samples):
        self.results.append(1.0)

    def compute_metrics(self, results):
        return dict(acc=np.float64(sum(results)))


class Getattr:
    """Pickles as a look-up of ``name`` on ``owner``, the way a method of a class is pickled."""

    def __init__(self, owner, name):
        self.lookup = (owner, name)

    def __reduce__(self):
        return getattr, self.lookup


def train(folder, epochs=2, **overrides):
    folder.mkdir(exist_ok=True)
    runner = toy_runner(
        folder,
        param_scheduler=SCHEDULERS,
        val_evaluator=dict(type=AccuracyMetric),
        **VALIDATION,
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        custom_hooks=[dict(type='EMAHook')],
        optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=0.01)),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1, save_best='acc', max_keep_ckpts=2)),
        **overrides,
    )
    runner.train()
    return runner


def round_trip(value, path):
    torch.save(value, path)
    return torch.load(path, weights_only=True)


def test_a_stock_runner_resumes_its_own_checkpoint_and_ends_with_the_same_weights(tmp_path):
    whole = train(tmp_path / 'whole')
    checkpoint = tmp_path / 'whole' / 'epoch_1.pth'
    assert torch.load(checkpoint, weights_only=True)['message_hub']
    resumed = train(tmp_path / 'resumed', load_from=str(checkpoint), resume=True)
    assert resumed.iter == 16
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name


@pytest.mark.parametrize(
    'value',
    [
        np.float64(3),
        np.float32(2),
        np.int64(1),
        np.bool_(True),
        np.arange(3, dtype=np.uint8),
        np.array([[1.5]], np.float16),
        np.array(['car', 'bus']),
        ConfigDict(a=ConfigDict(b=[1])),
    ],
)
def test_what_metainfo_and_metrics_hold_comes_back_equal(value, tmp_path):
    loaded = round_trip(value, tmp_path / 'value.pth')
    assert type(loaded) is type(value)
    np.testing.assert_array_equal(loaded, value)


def test_a_log_history_comes_back_with_its_statistics(tmp_path):
    loaded = round_trip(HistoryBuffer([1.0, 2.0], [1, 1]), tmp_path / 'history.pth')
    assert loaded.statistics('mean') == 1.5


@pytest.mark.parametrize('names', [('core', '_core'), ('_core', 'core')])
def test_arrays_load_under_the_module_names_of_both_numpy_versions(names, tmp_path):
    path = tmp_path / 'array.pth'
    # The format of old keeps the names as plain text, so that they can be exchanged in the file.
    torch.save([np.arange(3.0), np.float64(5)], path, _use_new_zipfile_serialization=False)
    written = path.read_bytes()
    path.write_bytes(
        written.replace(b'cnumpy.core.', b'cnumpy._core.') if names[1] == '_core' else written.replace(b'cnumpy._core.', b'cnumpy.core.')
    )
    array, scalar = torch.load(path, weights_only=True)
    assert array.tolist() == [0, 1, 2] and scalar == 5


@pytest.mark.parametrize(
    'value',
    [Fraction(1, 2), np.array([None]), Getattr(HistoryBuffer, '__init__'), Getattr(torch.Tensor, 'data'), Getattr(np.ndarray, 'tofile')],
)
def test_what_is_not_listed_is_still_refused(value, tmp_path):
    with pytest.raises((pickle.UnpicklingError, AttributeError)):
        round_trip(value, tmp_path / 'value.pth')


def test_a_refused_look_up_names_what_was_asked_for():
    with pytest.raises(AttributeError, match="may not look up '__init__' of .*HistoryBuffer"):
        listed_attribute(HistoryBuffer, '__init__')


def test_allowing_twice_changes_nothing():
    before = set(map(repr, torch.serialization.get_safe_globals()))
    allow_checkpoint_types()
    assert set(map(repr, torch.serialization.get_safe_globals())) == before


def test_torch_2_4_and_2_5_find_every_entry_under_the_name_that_a_checkpoint_has_for_it():
    """They look it up by module and name, and take no names beside."""
    for thing, name in checkpoint_globals():
        renamed = under_its_name(thing, name)
        assert f'{renamed.__module__}.{renamed.__name__}' == name
    assert under_its_name(listed_attribute, 'builtins.getattr')(HistoryBuffer, 'mean') is HistoryBuffer.mean
