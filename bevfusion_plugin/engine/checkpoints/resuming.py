"""The checkpoint that a run goes on from, and what it takes over from it."""
from __future__ import annotations

from pathlib import Path

import torch
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner, find_latest_checkpoint

from bevfusion_plugin.engine.checkpoints.safe_loading import CAN_BE_TOLD


def checkpoint_seed(path: str) -> int | None:
    """The seed of the run that wrote a checkpoint; None if the file is not here or does not say."""
    if not Path(path).is_file():
        return None
    checkpoint = torch.load(path, map_location='cpu', mmap=True, weights_only=CAN_BE_TOLD)
    return checkpoint.get('meta', {}).get('seed')


def newest_checkpoint(runner: Runner) -> str | None:
    """The last checkpoint that this run wrote, else the one it was resumed from."""
    written = [hook.last_ckpt for hook in runner.hooks if isinstance(hook, CheckpointHook) and hook.last_ckpt]
    if written or not runner._resume:
        return written[0] if written else None
    return runner._load_from or find_latest_checkpoint(runner.work_dir)
