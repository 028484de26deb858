"""Rules about the learning rate and beta1 over a training, most of them on the curves that the real schedulers give."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from mmengine.optim.scheduler.param_scheduler import INF

from bevfusion_plugin.doctor.case import Case, knows_iterations, trace_of
from bevfusion_plugin.doctor.finding import MMENGINE, Problem, rule
from bevfusion_plugin.doctor.reading.config import (
    is_adam,
    is_by_iteration,
    is_ours,
    max_epochs,
    max_iters,
    moves_momentum,
    number,
    optimizer_cfg,
    param_schedulers,
    scheduler_keys,
    short_name,
)
from bevfusion_plugin.doctor.schedule_runner import ScheduleError
from bevfusion_plugin.doctor.schedule_trace import ScheduleTrace, trace_schedule
from bevfusion_plugin.engine.schedules.span import Span

MAX_BETA1 = 0.95
MAX_LOW_BETA1 = 0.85  # a cycle that does not go below it hardly moves; the recipes' own goes down to 0.805
MIN_WARMUP_UPDATES = 100
FEW_BATCHES = 10
TOLERANCE = 0.01  # share of the training by which a schedule may miss its end
WARMUPS = ('LinearLR', 'ConstantLR', 'QuadraticWarmupLR', 'CosineWarmupLR')
SHAPED_BY_THEIR_LENGTH = ('Cosine', 'Linear', 'Poly', 'OneCycle', 'Quadratic')


@rule('schedule-not-buildable', 'error', f'{MMENGINE}/optim/scheduler/param_scheduler.py')
def check_buildable(case: Case) -> Iterator[Problem]:
    """Optimizer and schedulers can be built and stepped to the end; silent where ``batch-plan-impossible`` says what is wrong."""
    try:
        case.plan
    except ValueError:
        return
    try:
        case.trace
    except ScheduleError as error:
        certain = is_by_iteration(case.cfg) or _fails_anyway(case)
        yield Problem(
            str(error),
            'correct optim_wrapper.optimizer or param_scheduler; a training stops with this error, perhaps not before its last epoch',
            severity=None if certain else 'warning',
        )
    except ValueError as error:
        yield Problem(f'the schedule was not examined: {error}', 'nothing has to be mended', severity='info')


def _fails_anyway(case: Case) -> bool:
    """Whether the schedule fails with the real length of an epoch, or whatever it is."""
    if case.batches_per_epoch and not case.quick:
        return True
    try:
        trace_schedule(case.cfg, FEW_BATCHES, case.world_size)
    except ScheduleError:
        return True
    return False


# ---- beta1


@rule('beta1-too-high', 'error', 'https://github.com/open-mmlab/mmdetection3d/issues/3115')
def check_high_beta1(case: Case) -> Iterator[Problem]:
    """beta1 stays at or below 0.95: near 1 Adam's bias correction makes steps many times the learning rate.

    In MMEngine ``CosineAnnealingMomentum.eta_min`` is a value; configs that came from mmcv 1.x give a ratio.
    """
    trace = trace_of(case)
    if trace is None or trace.beta1 is None or not is_adam(case.cfg) or trace.beta1.max() <= MAX_BETA1 + 1e-9:
        return
    above = (trace.beta1 > MAX_BETA1).mean()
    yield Problem(
        f'beta1 starts at {trace.beta1[0]:.4g}, reaches {trace.beta1.max():.6g} and ends at {trace.beta1[-1]:.6g}; it '
        f'is above {MAX_BETA1} for {above:.0%} of the training',
        'keep beta1 at or below 0.95. eta_min of a momentum scheduler is the value itself, not a ratio to the initial '
        'one: for 0.9 -> 0.805 -> 0.9 write 0.9 * 0.85 / 0.95, then 0.9',
        _lower_beta1(case),
    )


def _lower_beta1(case: Case) -> dict[str, Any]:
    """Ratios made values; constant betas and our ``moms`` cut off at 0.95."""
    changes: dict[str, Any] = {}
    betas = optimizer_cfg(case.cfg).get('betas') or [0.9]
    start = betas[0]
    if start > MAX_BETA1:
        changes['optim_wrapper.optimizer.betas'] = [0.9, *betas[1:]]
        start = 0.9
    for key, scheduler in zip(scheduler_keys(case.cfg), param_schedulers(case.cfg)):
        eta_min = number(scheduler.get('eta_min'))
        if moves_momentum(scheduler) and eta_min is not None and eta_min > MAX_LOW_BETA1:
            changes[f'{key}.eta_min'] = start * min(eta_min, 1.0)
        elif is_ours(scheduler) and scheduler.get('moms'):
            changes[f'{key}.moms'] = [min(value, MAX_BETA1) for value in scheduler['moms']]
    return changes


@rule('beta1-hardly-cycled', 'warning', 'https://github.com/open-mmlab/mmdetection3d/issues/3115')
def check_low_beta1(case: Case) -> Iterator[Problem]:
    """A cycled beta1 goes below 0.85."""
    trace = trace_of(case)
    if trace is None or trace.beta1 is None or not is_adam(case.cfg):
        return
    low, high = float(trace.beta1.min()), float(trace.beta1.max())
    if high - low > 1e-4 and low > MAX_LOW_BETA1 and high <= MAX_BETA1 + 1e-9:
        yield Problem(
            f'beta1 is cycled between {low:.4g} and {high:.4g} only; the one-cycle policy goes down to about 0.805',
            'eta_min of a momentum scheduler is a value, not a ratio: write 0.9 * 0.85 / 0.95',
            _lower_beta1(case),
        )


# ---- length


@rule('schedule-ends-early', 'error', 'https://github.com/open-mmlab/mmdetection3d/issues/2967')
def check_early_end(case: Case) -> Iterator[Problem]:
    """The last scheduler of learning rate and of momentum lasts as long as the training; a warm-up alone need not."""
    trace = trace_of(case)
    if trace is None:
        return
    for param in ('lr', 'momentum'):
        values, name = (trace.lr, 'the learning rate') if param == 'lr' else (trace.momentum, trace.momentum_name)
        if values is None:
            continue
        movers = [item for item in _scheduled(case, trace) if item[2].param == param and not _is_warmup(item)]
        end = max((span.end for _, _, span in movers), default=math.inf)
        if end >= trace.updates * (1 - TOLERANCE) or not all(_is_comparable(case, trace, entry) for _, entry, _ in movers):
            continue
        changes: dict[str, Any] = {}
        for key, entry, span in movers:
            if span.end == end:
                changes.update(_stretched(case, trace, key, entry))
        yield Problem(
            f'the last scheduler of {name} ends {_place(case, trace, end)}; from there on it stays at {values[-1]:.4g}',
            'make param_scheduler end with the training: end (and T_max) together with train_cfg.max_epochs',
            changes,
        )


@rule('schedule-ends-late', 'warning', 'https://github.com/open-mmlab/mmdetection3d/issues/2967')
def check_late_end(case: Case) -> Iterator[Problem]:
    """A curve that is shaped by its length ends with the training, so that the learning rate gets to its floor."""
    trace = trace_of(case)
    if trace is None:
        return
    for key, entry, span in _scheduled(case, trace):
        shaped = any(word in span.scheduler for word in SHAPED_BY_THEIR_LENGTH) and _is_comparable(case, trace, entry)
        if shaped and trace.updates * (1 + TOLERANCE) < span.end < math.inf:
            changes = _stretched(case, trace, key, entry) if span.begin < trace.updates else {}
            yield Problem(
                f'{key}: {span.scheduler} ({span.param}) would end {_place(case, trace, span.end)}; it is cut off',
                'make end (and T_max) equal to the length of the training',
                changes,
            )


@rule('cosine-period', 'warning', f'{MMENGINE}/optim/scheduler/param_scheduler.py')
def check_cosine_period(case: Case) -> Iterator[Problem]:
    """A cosine's ``T_max`` is ``end - begin``: shorter, it turns back up; longer, it stops before its floor."""
    for key, entry in zip(scheduler_keys(case.cfg), param_schedulers(case.cfg)):
        period, begin = number(entry.get('T_max')), number(entry.get('begin', 0))
        by_epoch = entry.get('by_epoch', True)
        end = number(entry.get('end', max_epochs(case.cfg) if by_epoch else max_iters(case.cfg)))
        if not period or begin is None or end is None or end >= INF or 'Cosine' not in short_name(entry):
            continue
        if abs(period - (end - begin)) > (1e-6 * period if by_epoch else 1):
            what = 'turns back before its end' if period < end - begin else 'is cut off before its floor'
            yield Problem(
                f'{key}: {short_name(entry)} has T_max={period:g}, end - begin is {end - begin:g}: the cosine {what}',
                f'set T_max to {end - begin:g}, or leave it out',
                {f'{key}.T_max': end - begin},
            )


@rule('epochs-in-iteration-loop', 'error', f'{MMENGINE}/runner/loops.py')
def check_units(case: Case) -> Iterator[Problem]:
    """In a loop over iterations, which is one long epoch, no scheduler counts epochs: it would never step."""
    if not is_by_iteration(case.cfg):
        return
    for key, entry in zip(scheduler_keys(case.cfg), param_schedulers(case.cfg)):
        if entry.get('by_epoch', True) and not entry.get('convert_to_iter_based'):
            yield Problem(
                f'{key}: {short_name(entry)} counts epochs, as by_epoch is not False, but the training loop counts '
                'iterations and is a single epoch to MMEngine: the scheduler never steps',
                'set by_epoch=False, and give begin, end and T_max in iterations',
                {f'{key}.by_epoch': False},
            )
        elif entry.get('convert_to_iter_based') and entry.get('end') is None:
            yield Problem(
                f'{key}: {short_name(entry)} has no end, and in a loop over iterations MMEngine makes it one epoch of the '
                f'data, however long the training is (max_iters={max_iters(case.cfg)})',
                'set by_epoch=False and end in iterations (updates for a scheduler of bevfusion_plugin), without convert_to_iter_based',
            )


# ---- warm-up


@rule('warmup-in-micro-batches', 'warning', 'https://github.com/open-mmlab/mmengine/issues/1308')
def check_warmup_unit(case: Case) -> Iterator[Problem]:
    """A warm-up by iterations lasts as many updates as it says; MMEngine's schedulers count micro-batches. Ours count updates."""
    trace = trace_of(case)
    if trace is None or trace.accumulative_counts == 1:
        return
    A, schedulers = trace.accumulative_counts, _scheduled(case, trace)
    for key, entry, span in schedulers:
        end = number(entry.get('end'))
        in_iterations = span.counts == 'micro-batches' and entry.get('by_epoch') is False
        if not (_is_warmup((key, entry, span)) and in_iterations and end):
            continue
        changes = {f'{key}.end': int(end * A)}
        for other_key, other, other_span in schedulers:  # what takes over from the warm-up starts where it now ends
            if other.get('by_epoch') is False and other_span.counts == 'micro-batches' and other.get('begin') == end:
                changes[f'{other_key}.begin'] = int(end * A)
        yield Problem(
            f'{key}: {span.scheduler} warms up over {end:g} iterations, which with accumulative_counts={A} are {span.end:,.0f} updates',
            f'set end to {end:g} x {A} = {end * A:g}, or take a scheduler of bevfusion_plugin, which counts updates',
            changes,
            severity=None if span.end < MIN_WARMUP_UPDATES else 'info',
        )


def _is_warmup(item: tuple[str, dict[str, Any], Span]) -> bool:
    _, entry, span = item
    return span.scheduler in WARMUPS and span.begin == 0 and entry.get('end_factor', 1) == 1


def _scheduled(case: Case, trace: ScheduleTrace) -> list[tuple[str, dict[str, Any], Span]]:
    """(dotted key, config, span) of every scheduler."""
    return list(zip(scheduler_keys(case.cfg), param_schedulers(case.cfg), trace.spans))


def _is_comparable(case: Case, trace: ScheduleTrace, entry: dict[str, Any]) -> bool:
    return knows_iterations(case, trace) or entry.get('by_epoch', True)


def _place(case: Case, trace: ScheduleTrace, update: float) -> str:
    """'at epoch 6 of 10, update 23,172 of 38,620', as far as known."""
    in_epochs = f'at epoch {update / trace.updates * trace.epochs:.3g} of {trace.epochs:g}'
    in_updates = f'at update {update:,.0f} of {trace.updates:,}'
    if is_by_iteration(case.cfg):
        return in_updates
    return f'{in_epochs}, {in_updates.removeprefix("at ")}' if knows_iterations(case, trace) else in_epochs


def _stretched(case: Case, trace: ScheduleTrace, key: str, entry: dict[str, Any]) -> dict[str, Any]:
    """Changes that make a scheduler end with the training, in its own unit."""
    by_epoch = entry.get('by_epoch', True)
    epochs = max_epochs(case.cfg)
    end = epochs if by_epoch else trace.updates if is_ours(entry) else max_iters(case.cfg)
    if end is None and epochs and not by_epoch:
        end = trace.batches_per_epoch * epochs
    if end is None:  # an epoch-wise scheduler in a loop over iterations: a finding of its own
        return {}
    changes: dict[str, float] = {f'{key}.end': end}
    for name in ('T_max', 'total_steps'):
        if number(entry.get(name)):
            changes[f'{key}.{name}'] = end - (number(entry.get('begin')) or 0)
    return changes
