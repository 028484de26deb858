"""The table a training opens with: what an update is, and how learning rate and schedule follow from it."""

from __future__ import annotations

import math
from collections.abc import Iterable

from bevfusion_plugin.plan.batch_plan import BatchPlan

TITLE = 'What an update is:'  # what the log says above it


def training_table(
    plan: BatchPlan, lrs: Iterable[float], lr_ratio: float, batches_per_epoch: int, epochs: int, flush: str, schedules: Iterable[str]
) -> str:
    """The table as text, a row a line.

    Args:
        plan: Ranks, samples and accumulation, base batch and rule.
        lrs: Learning rates the optimizer's groups have after scaling, each distinct one.
        lr_ratio: What they were multiplied by.
        batches_per_epoch: Micro-batches an epoch, L.
        epochs: Epochs of the training.
        flush: See :func:`count_updates`.
        schedules: A line for each scheduler: what it moves, from which update to which.
    """
    short = plan.partial_window(batches_per_epoch) if flush == 'epoch' else 0
    rows = [
        ('ranks', f'{plan.world_size}'),
        ('samples a rank a micro-batch', f'{plan.samples_per_rank}'),
        ('micro-batches a window', f'{plan.accumulative_counts}'),
        ('total batch', f'{plan}'),
        ('base batch', f'{plan.base_batch_size or "not given"}'),
        ('rule', _rule(plan, lr_ratio)),
        *(('LR before -> after', f'{lr / lr_ratio:.4g} -> {lr:.4g} (x {lr_ratio:.4g})') for lr in lrs),
        ('updates an epoch', f'{plan.updates_per_epoch(batches_per_epoch)}' + (f', the last from {short}' if short else '')),
        ('updates in all', f'{plan.total_updates(epochs, batches_per_epoch, flush)}'),
        *(('schedule', schedule) for schedule in schedules),
    ]
    width = max(len(name) for name, _ in rows)
    return '\n'.join(f'  {name:<{width}}  {value}' for name, value in rows)


def _rule(plan: BatchPlan, lr_ratio: float) -> str:
    if plan.base_batch_size is None or math.isclose(plan.lr_ratio, lr_ratio):
        return plan.rule
    return f'{plan.rule}, not applied (it would scale the LR by {plan.lr_ratio:.4g})'
