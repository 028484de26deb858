"""A training that does not fit is started again with smaller micro-batches and the same total batch."""

import pytest
from launched_tools import TRAIN, Launched
from mmengine.config import Config

from bevfusion_plugin.launch.out_of_memory import STATUS, smaller_micro_batch, with_options

CONFIG = """
default_scope = 'mmengine'
model = dict(type='hungry_model.HungryModel', most=2)
train_dataloader = dict(batch_size=8, num_workers=0, collate_fn=dict(type='default_collate'), dataset=dict(type='toy_training.ToyData'),
                        sampler=dict(type='bevfusion_plugin.SeekableSampler'))
train_cfg = dict(by_epoch=True, max_epochs=1)
optim_wrapper = dict(type='bevfusion_plugin.AccumulativeAmpOptimWrapper', dtype='float32', optimizer=dict(type='SGD', lr=0.01))
custom_hooks = [dict(type='bevfusion_plugin.WindowHook'), dict(type='bevfusion_plugin.TrainingMonitorHook')]
env_cfg = dict(dist_cfg=dict(backend='gloo'))
"""


@pytest.mark.parametrize(
    'samples, counts, options',
    [
        (4, 2, {'train_dataloader.batch_size': 2, 'optim_wrapper.accumulative_counts': 4}),
        (4, 'auto', {'train_dataloader.batch_size': 2}),
        (3, 8, {'train_dataloader.batch_size': 1, 'optim_wrapper.accumulative_counts': 24}),
        (1, 8, None),
    ],
)
def test_the_total_batch_is_kept(samples, counts, options):
    wrapper = dict(type='bevfusion_plugin.AccumulativeAmpOptimWrapper', accumulative_counts=counts)
    assert smaller_micro_batch(Config(dict(train_dataloader=dict(batch_size=samples), optim_wrapper=wrapper))) == options


def test_a_wrapper_that_does_not_weight_as_ours_is_left_alone():
    assert smaller_micro_batch(Config(dict(train_dataloader=dict(batch_size=4), optim_wrapper=dict(type='OptimWrapper')))) is None


@pytest.mark.parametrize(
    'before, after',
    [
        (['c.py'], ['c.py', '--resume', '--cfg-options', 'a=1']),
        (['c.py', '--cfg-options', 'a=3', 'b=2', '--resume'], ['c.py', '--resume', '--cfg-options', 'b=2', 'a=1']),
        (['c.py', '--samples-per-gpu', 'auto', '--seed', '0'], ['c.py', '--seed', '0', '--resume', '--cfg-options', 'a=1']),
        (['c.py', '--resume', 'x.pth'], ['c.py', '--resume', 'x.pth', '--cfg-options', 'a=1']),
    ],
)
def test_the_command_line_says_it_once(before, after):
    assert with_options(before, dict(a=1)) == after


def launched(tmp_path, *arguments):
    """Exit status and output."""
    config = tmp_path / 'hungry.py'
    config.write_text(CONFIG)
    run = Launched([*TRAIN, config, '--work-dir', tmp_path / 'run', *arguments])
    return run.end(), run.output


def test_without_the_flag_the_mend_is_said(tmp_path):
    status, output = launched(tmp_path)
    assert status == STATUS
    assert 'train_dataloader.batch_size=4 optim_wrapper.accumulative_counts=2 (--retry-oom' in output and 'Traceback' not in output


@pytest.mark.parametrize('processes', [1, 2])
def test_with_it_the_run_shrinks_until_it_fits_and_keeps_its_total_batch(processes, tmp_path):
    status, output = launched(tmp_path, '--retry-oom', '--gpus', processes)
    assert status == 0, output[-3000:]
    for shrunk in (
        "{'train_dataloader.batch_size': 4, 'optim_wrapper.accumulative_counts': 2}",
        "{'train_dataloader.batch_size': 2, 'optim_wrapper.accumulative_counts': 4}",
    ):
        assert f'starting again with {shrunk}' in output
    assert f'{processes} x 2 x A4 = {processes * 8}' in output
