"""What a run that goes on takes over from the checkpoint of the one before."""
from __future__ import annotations

from pathlib import Path

import torch


def checkpoint_seed(path: str) -> int | None:
    """The seed of the run that wrote a checkpoint; None if the file is not here or does not say."""
    if not Path(path).is_file():
        return None
    return torch.load(path, map_location='cpu', mmap=True).get('meta', {}).get('seed')
