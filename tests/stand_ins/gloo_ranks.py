"""Processes that talk to each other on one machine, over gloo if nothing else is said, for tests of what ranks do together."""

from __future__ import annotations

import multiprocessing
import tempfile
from pathlib import Path
from typing import Any
from collections.abc import Callable

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def run_ranks(world_size: int, work: Callable[..., Any], *args: Any, backend: str = 'gloo') -> list[Any]:
    """What ``work(rank, world_size, *args)`` returned on each rank; ``work`` is a function of an importable module."""
    multiprocessing.set_forkserver_preload(['mmengine.runner'])  # importing it is most of what a process does otherwise
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(_work_in_group, (world_size, folder, work, args, backend), world_size, start_method='forkserver')
        return [torch.load(Path(folder) / f'{rank}.pth', weights_only=False) for rank in range(world_size)]


def _work_in_group(rank: int, world_size: int, folder: str, work: Callable[..., Any], args: tuple, backend: str) -> None:
    torch.set_num_threads(1)
    if backend == 'nccl':
        torch.cuda.set_device(rank)
    dist.init_process_group(backend, init_method=f'file://{folder}/store', rank=rank, world_size=world_size)
    try:
        torch.save(work(rank, world_size, *args), Path(folder) / f'{rank}.pth')
    finally:
        dist.destroy_process_group()
