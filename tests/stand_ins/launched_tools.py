"""Our tools as processes of their own, read line by line while they run."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
TRAIN = [sys.executable, str(ROOT / 'tools' / 'train.py')]
TOY = """
default_scope = 'mmengine'
model = dict(type='toy_training.ToyModel')
train_dataloader = dict(batch_size=2, num_workers=0, collate_fn=dict(type='default_collate'),
                        dataset=dict(type='toy_training.ToyData'), sampler=dict(type='bevfusion_plugin.SeekableSampler'))
train_cfg = dict(by_epoch=True, max_epochs=2)
optim_wrapper = dict(type='bevfusion_plugin.AccumulativeAmpOptimWrapper', dtype='float32', optimizer=dict(type='SGD', lr=0.1),
                     accumulative_counts='auto', total_batch_size=8)
param_scheduler = [dict(type='bevfusion_plugin.OneCycleParamScheduler', moms=(0.9, 0.8), convert_to_iter_based=True)]
default_hooks = dict(checkpoint=dict(type='bevfusion_plugin.CheckpointHook', interval=1))
custom_hooks = [dict(type='bevfusion_plugin.WindowHook'), dict(type='bevfusion_plugin.AutoScaleLRHook'),
                dict(type='bevfusion_plugin.EpochSeedHook')]
env_cfg = dict(dist_cfg=dict(backend='gloo'))
randomness = dict(seed=0)
"""


def free_port() -> str:
    """A port of this machine that nobody listens on."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return str(free.getsockname()[1])


def dist_train(processes: int, *args: object) -> list[str]:
    """The command ``tools/dist_train.sh CONFIG processes ...`` of ``args``, which begin with the config."""
    return [str(ROOT / 'tools' / 'dist_train.sh'), str(args[0]), str(processes), *map(str, args[1:])]


class Launched:
    """A command that runs, in a session of its own; its output is stdout and stderr together.

    Args:
        command: Program and arguments.
        **environment: Variables that it gets beside the present ones.
    """

    def __init__(self, command: list[object], **environment: str) -> None:
        path = f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'
        modules = os.pathsep.join([str(ROOT), str(ROOT / 'tests' / 'stand_ins')])
        self.process = subprocess.Popen(
            list(map(str, command)),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(os.environ, PATH=path, PYTHONPATH=modules, OMP_NUM_THREADS='1', **environment),
            start_new_session=True,
        )
        self.output = ''

    def read_until(self, text: str, times: int = 1) -> str:
        """All output up to the line in which ``text`` comes for the ``times``-th time."""
        while self.output.count(text) < times:
            line = self.process.stdout.readline()
            if not line:
                raise AssertionError(f'no {text!r} in {self.output[-5000:]}')
            self.output += line
        return self.output

    def end(self) -> int:
        """Its exit status, once it and all that write to its output have ended; the rest is in ``output``."""
        self.output += self.process.communicate(timeout=200)[0]
        return self.process.returncode

    def kill(self) -> None:
        """End it and its children by force, if they are there."""
        pids = map(int, re.findall(r'stands still, process (\d+)', self.output))
        for pid in (self.process.pid, *pids):
            try:
                os.killpg(pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass
        self.process.wait()
        self.process.stdout.close()
