"""Small trainings through tools/train.py that something goes wrong in, also as a script that kills itself inside a write.

    python faulty_trainings.py NAME MOMENT [arguments of tools/train.py]
"""
from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from mmengine.hooks import Hook
from mmengine.runner import Runner

EPOCHS = 3
CONFIG = """
default_scope = 'mmengine'
model = dict(type='toy_training.ToyModel')
train_dataloader = dict(batch_size=2, num_workers=0, collate_fn=dict(type='default_collate'),
                        dataset=dict(type='toy_training.ToyData'), sampler=dict(type='DefaultSampler', shuffle=True))
train_cfg = dict(by_epoch=True, max_epochs=3)
optim_wrapper = dict(type='bevfusion_plugin.AccumulativeAmpOptimWrapper', dtype='float32', accumulative_counts=2,
                     optimizer=dict(type='SGD', lr=0.1, momentum=0.9))
default_hooks = dict(checkpoint=dict(type='bevfusion_plugin.CheckpointHook', interval=1, max_keep_ckpts=1))
custom_hooks = [dict(type='bevfusion_plugin.EpochSeedHook'), dict(type='bevfusion_plugin.EMAHook')]
log_level = 'WARNING'
"""
MOMENTS = ('half written', 'written, not renamed', 'renamed, no manifest')


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
            path.with_name(path.name + whole_file.UNFINISHED).write_bytes(content[:len(content) // 2])
        elif path.name == name and moment == 'written, not renamed':
            write(path, content)
        elif not (path.name == f'{name}.json' and moment == 'renamed, no manifest'):
            return write(path, content)
        os.kill(os.getpid(), signal.SIGKILL)

    whole_file._written_aside = killed


if __name__ == '__main__':
    from tool_loading import load_tool
    kill_inside_write(*sys.argv[1:3])
    sys.exit(load_tool('train').main(sys.argv[3:]))
