"""Hooks that end a training of several processes with an error, or hold it up."""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner


class DeserterHook(Hook):
    """In its second micro-batch rank 1 raises, in the midst of an exchange for which the others, busy elsewhere, never come."""

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        if batch_idx == 1 and runner.rank == 1:
            torch.distributed.all_reduce(torch.ones(1), async_op=True)
            raise RuntimeError('rank 1 has lost its data')
        if batch_idx == 1:
            time.sleep(600)


class VanishingHook(Hook):
    """In its second micro-batch rank 1 ends without a word, as when the kernel kills it for memory."""

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        if batch_idx == 1 and runner.rank == 1:
            os._exit(7)


class StandingHook(Hook):
    """Before an iteration all ranks say 'stands still' and wait until there is a file.

    Args:
        go: The file.
        iteration: Of the whole training, from 0.
        ranks: How many there must be for it.
    """

    def __init__(self, go: str, iteration: int = 0, ranks: int | None = None) -> None:
        self.go, self.iteration, self.ranks = Path(go), iteration, ranks

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        if runner.iter == self.iteration and self.ranks in (None, runner.world_size):
            print(f'rank {runner.rank} of {runner.world_size} stands still, process {os.getpid()}', flush=True)
            while not self.go.exists():
                time.sleep(0.05)
