"""How often a training step's host side asks for a number of a tensor: on a GPU each time is a wait for all that was launched."""

import pytest
import torch
from mmengine.hooks import Hook
from torch.utils._python_dispatch import TorchDispatchMode
from toy_training import OPTIM_WRAPPER, ToyData, ToyModel, linear_net, toy_runner, toy_loader

COUNTS = 4
READS = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default, torch.ops.aten.is_nonzero.default)


class CountReads(TorchDispatchMode):
    """Counts what reads a tensor's numbers, ``tolist`` among it."""

    def __init__(self, monkeypatch):
        super().__init__()
        self.reads = 0
        to_list = torch.Tensor.tolist

        def counted(tensor):
            self.reads += 1
            return to_list(tensor)

        monkeypatch.setattr(torch.Tensor, 'tolist', counted)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.reads += func in READS
        return func(*args, **(kwargs or {}))


class ReadsHook(Hook):
    """Reads of each micro-batch from its step to the last hook; loading the data, on the host, is left out."""

    priority = 'LOWEST'

    def __init__(self, counter):
        self.counter, self.reads = counter, []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.counter.reads = 0

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.reads.append(self.counter.reads)


def reads(tmp_path, monkeypatch, dtype, hooks, **overrides):
    tmp_path.mkdir(exist_ok=True)
    with CountReads(monkeypatch) as counter:
        recorder = ReadsHook(counter)
        runner = toy_runner(
            tmp_path,
            ToyModel(linear_net, torch.float32),
            train_cfg=dict(by_epoch=True, max_epochs=1),
            train_dataloader=toy_loader(ToyData(40, torch.float32), sampler=dict(type='bevfusion_plugin.SeekableSampler')),
            optim_wrapper=dict(
                OPTIM_WRAPPER, dtype=dtype, accumulative_counts=COUNTS, clip_grad=dict(max_norm=35), loss_scale=dict(init_scale=1.0)
            ),
            custom_hooks=[*(dict(type=f'bevfusion_plugin.{name}') for name in hooks), recorder],
            **overrides,
        )
        runner.train()
    return recorder.reads[COUNTS : 3 * COUNTS]  # the first window also sets up


OURS = ('WindowHook', 'AutoScaleLRHook', 'EpochSeedHook')


@pytest.mark.parametrize('dtype', ['float32', 'float16'])
def test_the_wrapper_waits_once_a_window_and_the_losses_once_more(dtype, tmp_path, monkeypatch):
    info = dict(default_hooks=dict(checkpoint=None, logger=None, runtime_info=dict(type='bevfusion_plugin.RuntimeInfoHook')))
    assert reads(tmp_path / 'ours', monkeypatch, dtype, OURS, **info) == [0, 0, 0, 2] * 2


def test_monitor_and_sentinel_wait_at_the_windows_end_only(tmp_path, monkeypatch):
    info = dict(
        default_hooks=dict(
            logger=dict(type='bevfusion_plugin.LoggerHook', interval=100),
            runtime_info=dict(type='bevfusion_plugin.RuntimeInfoHook'),
            checkpoint=dict(type='bevfusion_plugin.CheckpointHook'),
        )
    )
    found = reads(tmp_path / 'all', monkeypatch, 'float16', (*OURS, 'TrainingMonitorHook', 'DivergenceSentinelHook'), **info)
    assert found == [0, 0, 0, 3] * 2
