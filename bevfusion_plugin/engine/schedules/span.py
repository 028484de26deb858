"""From which update to which a scheduler acts, whatever it counts."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mmengine.optim import _ParamScheduler
from mmengine.optim.scheduler.param_scheduler import INF

from bevfusion_plugin.engine.schedules.curve_scheduler import CurveScheduler
from bevfusion_plugin.plan.batch_plan import count_updates


@dataclass(frozen=True)
class Span:
    """From which update to which a scheduler acts.

    Attributes:
        scheduler: Name of its class.
        param: What it moves: ``'lr'`` or ``'momentum'`` (beta1 where the optimizer has betas).
        begin: Its first update.
        end: The first update it no longer touches; infinite if it has no end.
        counts: What it counts: ``'updates'``, ``'micro-batches'`` or ``'epochs'``.
    """

    scheduler: str
    param: str
    begin: float
    end: float
    counts: str

    def __str__(self) -> str:
        end = 'end' if math.isinf(self.end) else self.end
        return f'{self.scheduler} ({self.param}): updates {self.begin} to {end}, counts {self.counts}'


def span_of(scheduler: _ParamScheduler, accumulative_counts: int, batches_per_epoch: int, flush: str) -> Span:
    """The span of a built scheduler.

    Args:
        scheduler: MMEngine's or ours.
        accumulative_counts: Micro-batches a window, A.
        batches_per_epoch: Micro-batches an epoch, L; of a loop over iterations, which is one epoch to MMEngine, all of them.
        flush: See :func:`count_updates`.
    """
    is_curve = isinstance(scheduler, CurveScheduler)

    def in_updates(step: int) -> float:
        if step >= INF:
            return math.inf
        if is_curve and not scheduler.by_epoch:
            return step
        batches = step * batches_per_epoch if scheduler.by_epoch else step
        return count_updates(batches, accumulative_counts, batches_per_epoch, flush)

    counts = 'epochs' if scheduler.by_epoch else 'updates' if is_curve else 'micro-batches'
    return Span(type(scheduler).__name__, scheduler.param_name, in_updates(scheduler.begin), in_updates(scheduler.end), counts)
