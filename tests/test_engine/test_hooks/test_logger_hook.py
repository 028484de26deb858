import re

import pytest
from toy_training import OPTIM_WRAPPER, ToyData, logged, toy_runner, toy_loader

OURS = [dict(type='bevfusion_plugin.WindowHook')]


def lines(tmp_path, name='run', interval=2, counts=3, **overrides):
    (tmp_path / name).mkdir(exist_ok=True)
    hooks = dict(
        logger=dict(type='bevfusion_plugin.LoggerHook', interval=interval, ignore_last=False),
        runtime_info=dict(type='bevfusion_plugin.RuntimeInfoHook'),
        checkpoint=dict(type='bevfusion_plugin.CheckpointHook', interval=1, by_epoch=False),
    )
    runner = toy_runner(
        tmp_path / name,
        custom_hooks=OURS,
        log_level='INFO',
        default_hooks=hooks,
        **dict(dict(optim_wrapper=dict(OPTIM_WRAPPER, accumulative_counts=counts)), **overrides),
    )
    runner.train()
    return re.findall(r'(?:Epoch|Iter)\(train\) +(\[.*\])', logged(runner))


def test_the_interval_counts_updates_and_a_line_ends_with_one(tmp_path):
    assert lines(tmp_path) == ['[1][6/8]', '[1][8/8]', '[2][3/8]', '[2][8/8]']


def test_the_lines_of_an_epoch_that_goes_on_are_numbered_as_if_it_had_not_stopped(tmp_path):
    data = dict(train_dataloader=toy_loader(ToyData(), sampler=dict(type='bevfusion_plugin.SeekableSampler', shuffle=False)))
    whole = lines(tmp_path, 'whole', interval=1, **data)
    resumed = lines(tmp_path, 'resumed', interval=1, resume=True, load_from=str(tmp_path / 'whole' / 'iter_11.pth'), **data)
    assert resumed == whole[4:] == ['[2][6/8]', '[2][8/8]']


@pytest.mark.parametrize('wrapper', [dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1))])
def test_with_another_wrapper_it_is_mmengines(wrapper, tmp_path):
    assert lines(tmp_path, interval=4, optim_wrapper=wrapper) == ['[1][4/8]', '[1][8/8]', '[2][4/8]', '[2][8/8]']
