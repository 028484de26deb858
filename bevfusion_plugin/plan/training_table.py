"""The table a training opens with: what an update is, and how learning rate and schedule follow from it."""
from __future__ import annotations

import math
from typing import Iterable

from mmengine.optim import _ParamScheduler
from mmengine.optim.scheduler.param_scheduler import INF

from bevfusion_plugin.plan.batch_plan import BatchPlan, count_updates
from bevfusion_plugin.engine.schedules.curve_scheduler import CurveScheduler


def plan_table(plan: BatchPlan, lrs: Iterable[float], lr_ratio: float, batches_per_epoch: int, epochs: int, flush: str,
               schedulers: Iterable[_ParamScheduler]) -> str:
    """The table as text, a row a line.

    Args:
        plan: Ranks, samples and accumulation, base batch and rule.
        lrs: Learning rates the optimizer's groups have after scaling, each distinct one.
        lr_ratio: What they were multiplied by.
        batches_per_epoch: Micro-batches an epoch, L.
        epochs: Epochs of the training.
        flush: See :class:`AccumulativeAmpOptimWrapper`.
        schedulers: The built schedulers.
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
        *(('schedule', schedule_span(scheduler, plan.accumulative_counts, batches_per_epoch, flush))
          for scheduler in schedulers)]
    width = max(len(name) for name, _ in rows)
    return '\n'.join(f'  {name:<{width}}  {value}' for name, value in rows)


def _rule(plan: BatchPlan, lr_ratio: float) -> str:
    if plan.base_batch_size is None or math.isclose(plan.lr_ratio, lr_ratio):
        return plan.rule
    return f'{plan.rule}, not applied (it would scale the LR by {plan.lr_ratio:.4g})'


def schedule_span(scheduler: _ParamScheduler, accumulative_counts: int, batches_per_epoch: int, flush: str) -> str:
    """From which update to which ``scheduler`` acts, and what it counts."""
    def in_updates(step: int) -> str:
        if step >= INF:
            return 'end'
        if isinstance(scheduler, CurveScheduler) and not scheduler.by_epoch:
            return f'{step}'
        batches = step * batches_per_epoch if scheduler.by_epoch else step
        return f'{count_updates(batches, accumulative_counts, batches_per_epoch, flush)}'

    unit = 'epochs' if scheduler.by_epoch else 'updates' if isinstance(scheduler, CurveScheduler) else 'micro-batches'
    return (f'{type(scheduler).__name__} ({scheduler.param_name}): updates {in_updates(scheduler.begin)} to '
            f'{in_updates(scheduler.end)}, counts {unit}')
