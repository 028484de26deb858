"""Small trainings through tools/train.py that something goes wrong in, also as a script that kills itself inside a write or after a time.

python faulty_trainings.py NAME MOMENT [arguments of tools/train.py]
python faulty_trainings.py after SECONDS [arguments of tools/train.py]
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import nn
from toy_training import FEATURES, TOY_CONFIG, ToyData, ToyModel

EPOCHS = 3
CONFIG = (
    TOY_CONFIG
    + """
train_cfg = dict(by_epoch=True, max_epochs=3)
optim_wrapper = dict(type='bevfusion_plugin.AccumulativeAmpOptimWrapper', dtype='float32', accumulative_counts=2,
                     optimizer=dict(type='SGD', lr=0.1, momentum=0.9))
default_hooks = dict(checkpoint=dict(type='bevfusion_plugin.CheckpointHook', interval=1, max_keep_ckpts=1))
custom_hooks = [dict(type='bevfusion_plugin.EpochSeedHook'), dict(type='bevfusion_plugin.EMAHook')]
log_level = 'WARNING'
"""
)
# With workers, noise in the data and dropout, and a checkpoint at the end of every window.
INSIDE_CONFIG = """
default_scope = 'mmengine'
model = dict(type='faulty_trainings.DropoutModel')
train_dataloader = dict(batch_size=2, num_workers=2, collate_fn=dict(type='default_collate'),
                        dataset=dict(type='faulty_trainings.NoisyData', length=30),
                        sampler=dict(type='bevfusion_plugin.SeekableSampler', shuffle=True))
train_cfg = dict(by_epoch=True, max_epochs=3)
optim_wrapper = dict(type='bevfusion_plugin.AccumulativeAmpOptimWrapper', dtype='float32', accumulative_counts=2,
                     optimizer=dict(type='SGD', lr=0.01, momentum=0.9))
param_scheduler = [dict(type='bevfusion_plugin.OneCycleParamScheduler', begin=0, end=3, by_epoch=True, convert_to_iter_based=True)]
default_hooks = dict(checkpoint=dict(type='bevfusion_plugin.CheckpointHook', interval=1, max_keep_ckpts=1, save_every=1e-9))
custom_hooks = [dict(type='bevfusion_plugin.WindowHook'), dict(type='bevfusion_plugin.EpochSeedHook'), dict(type='bevfusion_plugin.EMAHook')]
log_level = 'WARNING'
"""
MOMENTS = ('half written', 'written, not renamed', 'renamed, no manifest')


class NoisyData(ToyData):
    """Samples that are augmented by random numbers."""

    def __getitem__(self, index: int) -> dict:
        sample = super().__getitem__(index)
        return dict(sample, x=sample['x'] + np.random.normal() + random.random())


class DropoutModel(ToyModel):
    """A model that draws random numbers."""

    def __init__(self) -> None:
        super().__init__(lambda: nn.Sequential(nn.Linear(FEATURES, 5), nn.Dropout(0.5), nn.Linear(5, 1)))


class SignalHook(Hook):
    """Sends ``number`` to this process, which is rank ``rank``, before the micro-batch ``iteration``."""

    def __init__(self, number: int, iteration: int, rank: int = 0) -> None:
        self.number, self.iteration, self.rank = number, iteration, rank

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Send it."""
        if (runner.iter, runner.rank) == (self.iteration, self.rank):
            os.kill(os.getpid(), self.number)


class SampleLogHook(Hook):
    """Writes which samples, by their first number, each rank's part of each update had."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Write a line."""
        entry = dict(update=runner.optim_wrapper.updates, samples=data_batch['x'][:, 0].tolist())
        with open(self.folder / f'samples_{runner.world_size}_{runner.rank}.jsonl', 'a') as file:
            file.write(json.dumps(entry) + '\n')


class FillDiskHook(Hook):
    """Fills the work dir's disk after the first epoch, all but ``left`` bytes."""

    priority = 'LOWEST'

    def __init__(self, left: int = 4096) -> None:
        self.left = left

    def after_train_epoch(self, runner: Runner) -> None:
        """Write the filler."""
        if runner.epoch == 0:
            state = os.statvfs(runner.work_dir)
            with open(Path(runner.work_dir) / 'filler', 'wb') as file:
                file.write(bytes(state.f_bavail * state.f_frsize - self.left))


def kill_inside_write(name: str, moment: str) -> None:
    """Let this process end by SIGKILL at a moment of the writing of the file ``name``."""
    from bevfusion_plugin.engine.checkpoints import whole_file

    write = whole_file._written_aside

    def killed(path: Path, content: bytes) -> Path:
        if path.name == name and moment == 'half written':
            path.with_name(path.name + whole_file.UNFINISHED).write_bytes(content[: len(content) // 2])
        elif path.name == name and moment == 'written, not renamed':
            write(path, content)
        elif not (path.name == f'{name}.json' and moment == 'renamed, no manifest'):
            return write(path, content)
        os.kill(os.getpid(), signal.SIGKILL)

    whole_file._written_aside = killed


def kill_after(seconds: float) -> None:
    """Let this process end by SIGKILL that long after its training began."""
    run = EpochBasedTrainLoop.run

    def timed(loop: EpochBasedTrainLoop) -> Any:
        timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL))
        timer.daemon = True  # a training that ends earlier does not wait for it
        timer.start()
        return run(loop)

    EpochBasedTrainLoop.run = timed


if __name__ == '__main__':
    from tool_loading import load_tool

    if sys.argv[1] == 'after':
        kill_after(float(sys.argv[2]))
    else:
        kill_inside_write(*sys.argv[1:3])
    sys.exit(load_tool('train').main(sys.argv[3:]))
