"""Learning rate and momentum of every update of a training, found by stepping its real schedulers without its model.

:class:`ScheduleRunner` builds what a Runner would build; here it is walked through the training, the schedulers stepped by
MMEngine's own hook, with no forward, backward or optimizer step.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.hooks import ParamSchedulerHook
from mmengine.registry import DefaultScope

from bevfusion_plugin.doctor.reading.config import max_epochs, max_iters, optim_wrapper
from bevfusion_plugin.doctor.schedule_runner import ScheduleError, ScheduleRunner, needed_scope, scheduler_hook
from bevfusion_plugin.engine.schedules.param_groups import momentum_of
from bevfusion_plugin.engine.schedules.span import Span, span_of

RISE = 1e-9  # relative; what rises or falls by less is rounding


@dataclass(frozen=True, eq=False)
class ScheduleTrace:
    """What every update of a training uses; N updates.

    Attributes:
        lr: Learning rate of the optimizer's first group, (N,).
        momentum: beta1 or momentum of that group, (N,); None if the optimizer has neither.
        momentum_name: ``'beta1'``, ``'momentum'`` or None.
        epoch_ends: Updates done at the end of each whole epoch of the data.
        epochs: Length of the training in epochs of the data.
        batches_per_epoch: Micro-batches an epoch and rank, L.
        accumulative_counts: Micro-batches a window, A, resolved if it was ``'auto'``.
        spans: The schedulers, in the config's order.
    """

    lr: np.ndarray
    momentum: np.ndarray | None
    momentum_name: str | None
    epoch_ends: np.ndarray
    epochs: float
    batches_per_epoch: int
    accumulative_counts: int
    spans: tuple[Span, ...]

    @property
    def updates(self) -> int:
        """Updates of the whole training, N."""
        return len(self.lr)

    @property
    def updates_per_epoch(self) -> int:
        """Updates of the first epoch; of the whole training if it is shorter."""
        return int(self.epoch_ends[0]) if len(self.epoch_ends) else self.updates

    @property
    def beta1(self) -> np.ndarray | None:
        """beta1 of every update; None if the optimizer has no betas."""
        return self.momentum if self.momentum_name == 'beta1' else None

    @property
    def peak(self) -> int:
        """The first update with the highest learning rate."""
        return _first_top(self.lr)

    @cached_property
    def warmup_end(self) -> int:
        """The update at which the learning rate stops rising for the first time; 0 if it does not rise at the start."""
        falls = np.flatnonzero(self.lr[1:] < self.lr[:-1] * (1 - RISE))
        return _first_top(self.lr[: falls[0] + 1] if len(falls) else self.lr)

    def summary(self) -> dict[str, Any]:
        """The curve in a few numbers, as JSON takes them; updates count from 0."""
        numbers = dict(
            updates=self.updates,
            epochs=self.epochs,
            updates_per_epoch=self.updates_per_epoch,
            batches_per_epoch=self.batches_per_epoch,
            accumulative_counts=self.accumulative_counts,
            first_lr=float(self.lr[0]),
            peak_lr=float(self.lr[self.peak]),
            peak_update=self.peak,
            warmup_end=self.warmup_end,
            end_lr=float(self.lr[-1]),
            momentum_name=self.momentum_name,
        )
        if self.momentum is not None:
            numbers.update(
                first_momentum=float(self.momentum[0]),
                min_momentum=float(self.momentum.min()),
                max_momentum=float(self.momentum.max()),
                end_momentum=float(self.momentum[-1]),
            )
        return numbers


def _first_top(values: np.ndarray) -> int:
    return int(np.argmax(values >= values.max() * (1 - RISE)))


def trace_schedule(cfg: Config, batches_per_epoch: int, gpus: int = 1) -> ScheduleTrace | None:
    """Learning rate and momentum of every update; None if the config does not train, or trains with several optimizers.

    ``paramwise_cfg`` is left out: the trace shows the base learning rate, of which a group with ``lr_mult`` has its share. A
    wrapper or constructor of another package counts as MMEngine's; losses that grow or stop falling
    (``ReduceOnPlateauLR``) are not foreseen. Bare names are MMEngine's if it has them, else those of ``default_scope``.

    Args:
        cfg: The whole config; it is not changed.
        batches_per_epoch: Micro-batches an epoch and rank, L.
        gpus: Ranks, W: they count where the learning rate is scaled.

    Raises:
        ScheduleError: If optimizer or schedulers cannot be built or stepped. The message holds the error that a training would
            end with.
        ValueError: If ``batches_per_epoch`` is below 1.
    """
    if batches_per_epoch < 1:
        raise ValueError(f'batches_per_epoch must be >= 1, got {batches_per_epoch}; it is the length of the training dataloader')
    if not optim_wrapper(cfg) or not (max_epochs(cfg) or max_iters(cfg)):
        return None
    hook = scheduler_hook(cfg)
    with silent_log(), DefaultScope.overwrite_default_scope(needed_scope(cfg)):
        try:
            runner = ScheduleRunner(cfg, batches_per_epoch, gpus)
            return _walk(runner, hook)
        except Exception as error:  # whatever the config's own parts raise
            raise ScheduleError(f'the schedule cannot be built and followed: {type(error).__name__}: {error}') from error


def _walk(runner: ScheduleRunner, hook: ParamSchedulerHook | None) -> ScheduleTrace:
    """Every micro-batch of the training, with the schedulers stepped as a Runner's hooks would be called."""
    wrapper, loop = runner.optim_wrapper, runner.train_loop
    group, length = wrapper.optimizer.param_groups[0], len(loop.dataloader)
    lrs, momenta, ends = [], [], []
    # Read one by one, an attribute costs more here than a step of a scheduler.
    schedulers = runner.param_schedulers or []
    by_iteration = [scheduler for scheduler in schedulers if not scheduler.by_epoch]
    step_iteration = SimpleNamespace(param_schedulers=by_iteration or None)
    for done in range(1, loop.max_iters + 1):
        wrapper._inner_count = done  # what backward does
        if wrapper.should_update():
            lrs.append(group['lr'])
            momenta.append(momentum_of(group))
        if hook and by_iteration:
            hook.after_train_iter(step_iteration, done)
        if done % length == 0:
            ends.append(len(lrs))
        if hook and done % (loop.max_iters // loop.max_epochs) == 0:
            hook.after_train_epoch(runner)
    name = momenta[0][0] if momenta and momenta[0] else None
    momentum = np.array([each[1] for each in momenta if each]) if name else None
    counts, flush = wrapper._accumulative_counts, getattr(wrapper, 'flush', 'train')
    spans = tuple(span_of(scheduler, counts, loop.max_iters // loop.max_epochs, flush) for scheduler in schedulers)
    return ScheduleTrace(
        np.array(lrs, dtype=float), momentum, name, np.array(ends, dtype=int), loop.max_iters / length, length, counts, spans
    )


@contextmanager
def silent_log() -> Iterator[None]:
    """No log lines below errors: MMEngine writes them to stdout, where a tool's answer goes."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
