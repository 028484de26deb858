"""A hook that ends a training of several processes with an error."""
from __future__ import annotations

import time

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
