"""The common part of our schedulers: a closed-form curve over updates, read at the index of the coming one."""

from __future__ import annotations

import logging
from typing import Any
from collections.abc import Callable, Sequence

from mmengine.logging import print_log
from mmengine.optim import OptimWrapper, _ParamScheduler
from mmengine.optim.scheduler.param_scheduler import INF, OptimizerType

from bevfusion_plugin.engine.schedules.curves import one_cycle
from bevfusion_plugin.engine.schedules.param_groups import set_momentum
from bevfusion_plugin.plan.batch_plan import count_updates
from bevfusion_plugin.plan.checked_settings import checked_share, finite_number, finite_numbers, positive, switch, whole_number


class CurveScheduler(_ParamScheduler):
    """Writes ``_lr(index, peak)`` into every group, and ``_momentum(index, *moms)`` where ``moms`` is given.

    Attributes:
        peak_lrs: The LR each entry of ``optimizer.param_groups`` is scaled by (an ``OptimWrapper`` with several groups has
            one entry more than its optimizer: what it logs as ``base_lr``). Whoever scales learning rates after this
            scheduler was built scales this list, or builds the scheduler anew.
        total_steps: Length of the curve, in steps of this scheduler: updates, or epochs if ``by_epoch``.
        updates_per_epoch: What an epoch was converted to; None if nothing was converted.

    Raises:
        ValueError: If ``end`` is not larger than ``begin``, the curve has no length, or a value is out of its range.
    """

    # Attributes that shape the curve; a resumed run compares them with the checkpoint's.
    settings: tuple[str, ...] = ('by_epoch', 'begin', 'end', 'peak_lrs', 'updates_per_epoch')
    updates_per_epoch: int | None = None
    last_step: int
    _global_step: int
    _disturbed = False
    _last_value: list[float] | None = None

    def __init__(
        self,
        optimizer: OptimizerType,
        begin: int,
        end: int,
        last_step: int,
        by_epoch: bool,
        verbose: bool,
        total_steps: int | None = None,
        eta_max: float | Sequence[float] | None = None,
        moms: Sequence[float] | None = None,
        mom_pct_start: float = 0.0,
    ):
        check_span(begin, end, total_steps, last_step)
        switch('by_epoch', by_epoch), switch('verbose', verbose)
        self.total_steps = end - begin if total_steps is None else total_steps
        if 'total_steps' in self.settings:
            _check_length(type(self).__name__, self.total_steps, begin, end)
        self.moms = None if moms is None else _checked_moms(moms, optimizer)
        self.mom_pct_start = checked_share('mom_pct_start', mom_pct_start)
        self.peak_lrs = _peak_lrs(optimizer, eta_max)
        super().__init__(optimizer, 'lr', begin=begin, end=end, last_step=last_step, by_epoch=by_epoch, verbose=verbose)

    @classmethod
    def build_iter_from_epoch(
        cls, optimizer: OptimizerType, *, epoch_length: int | None = None, by_epoch: bool = True, **kwargs: Any
    ) -> CurveScheduler:
        """A scheduler that steps once an update, from arguments in epochs.

        Args:
            optimizer: Optimizer or wrapper. A wrapper's ``accumulative_counts`` and ``flush`` say how many updates an
                epoch makes; a plain optimizer makes one a micro-batch.
            epoch_length: Micro-batches an epoch.
            by_epoch: Must be True.
            **kwargs: The constructor's arguments; begin, end and total_steps in epochs.

        Raises:
            ValueError: If ``by_epoch`` is False or ``epoch_length`` no positive number.
        """
        if not by_epoch:
            raise ValueError('convert_to_iter_based needs arguments in epochs, got by_epoch=False; drop one of the two')
        if not epoch_length or epoch_length < 0:
            raise ValueError(f'epoch_length must be the number of micro-batches an epoch, got {epoch_length}')
        check_span(kwargs.get('begin', 0), kwargs.get('end', INF), kwargs.get('total_steps'))
        accumulative_counts = getattr(optimizer, '_accumulative_counts', 1)
        flush = getattr(optimizer, 'flush', 'train')

        def to_updates(epochs: float) -> int:
            return count_updates(int(epochs * epoch_length), accumulative_counts, epoch_length, flush)

        scheduler = cls(optimizer, by_epoch=False, **cls._in_updates(kwargs, to_updates))
        scheduler.updates_per_epoch = to_updates(1)
        return scheduler

    @classmethod
    def _in_updates(cls, kwargs: dict[str, Any], to_updates: Callable[[float], int]) -> dict[str, Any]:
        spans = {name: kwargs[name] for name in ('begin', 'end', 'total_steps') if kwargs.get(name) not in (None, INF)}
        return {**kwargs, **{name: to_updates(epochs) for name, epochs in spans.items()}}

    def step(self) -> None:
        """Move on by one update; do nothing while the wrapper's window is open.

        MMEngine's own ``step`` counts every call, and takes an update that the loss scaler skipped for a wrong call order.
        """
        if self._global_step < 0 and self.last_step >= 0:  # built with last_step: resuming without a state dict
            self._global_step = self.begin + self.last_step
        elif self._global_step >= 0 and not self.by_epoch and _window_is_open(self.optimizer):
            return
        if self._global_step == 0:
            self._check_unit()
        if self._is_active():
            self._check_alone()
        self._move_to(self._global_step + 1)
        self._set_values(self._is_active())

    def _check_unit(self) -> None:
        """Warn if ``end`` is the training's length in micro-batches: what Runner fills in where the config gives none."""
        accumulative_counts = getattr(self.optimizer, '_accumulative_counts', 1)
        self._check_length_of_run(accumulative_counts)
        in_micro_batches = self.end == getattr(self.optimizer, '_max_counts', None) and not self.by_epoch
        if accumulative_counts > 1 and in_micro_batches and self.updates_per_epoch is None:
            print_log(
                f'{type(self).__name__} counts updates, but end={self.end} is the number of micro-batches; set end to '
                f'{count_updates(self.end, accumulative_counts)}',
                logger='current',
                level=logging.WARNING,
            )

    def _check_length_of_run(self, accumulative_counts: int) -> None:
        """Warn if the run is over before the curve: so it is where a loop over iterations is shorter than the epoch it is measured in."""
        micro_batches = getattr(self.optimizer, '_max_counts', -1)
        if self.updates_per_epoch is None or micro_batches <= 0:
            return
        updates = count_updates(micro_batches, accumulative_counts)
        if self.end > updates + 1 and micro_batches // accumulative_counts < self.updates_per_epoch:
            print_log(
                f'{type(self).__name__} lasts {self.end} updates and the run {updates}: the learning rate never gets to its end; '
                f'set by_epoch=False and end={updates}, without convert_to_iter_based',
                logger='current',
                level=logging.WARNING,
            )

    def _check_alone(self) -> None:
        """Warn once if the LR is no longer what this scheduler wrote: factors of another then multiply whole values."""
        found = [group['lr'] for group in self.optimizer.param_groups]
        if self._last_value not in (None, found) and not self._disturbed:
            self._disturbed = True
            print_log(
                f'{type(self).__name__} set the learning rates {self._last_value} and finds {found}: something else moves them at '
                'the same time, and the result is neither schedule; begin this one where the other ends, or warm up with '
                'bevfusion_plugin.CosineWarmupLR',
                logger='current',
                level=logging.WARNING,
            )

    def _move_to(self, position: int) -> None:
        self._global_step = position
        self.last_step = max(min(position, self.end - 1) - self.begin, -1)

    def _is_active(self) -> bool:
        return self.begin <= self._global_step < self.end

    def _set_values(self, write: bool) -> None:
        groups = self.optimizer.param_groups
        for i, (group, lr) in enumerate(zip(groups, self._get_value() if write else ())):
            group['lr'] = lr
            self.print_value(self.verbose, i, lr)
            if self.moms is not None:
                set_momentum(group, self._momentum(self.last_step, *self.moms))
        self._last_value = [group['lr'] for group in groups]

    def _get_value(self) -> list[float]:
        return [self._lr(self.last_step, peak) for peak in self.peak_lrs]

    def _lr(self, index: int, peak: float) -> float:
        raise NotImplementedError

    def _momentum(self, index: int, high: float, low: float) -> float:
        return one_cycle(index, self.total_steps, self.mom_pct_start, high, low, high)

    def state_dict(self) -> dict[str, Any]:
        """The position, the LRs it gave, and the settings of the curve they lie on."""
        return dict(_global_step=self._global_step, last_step=self.last_step, _last_value=self._last_value, settings=self._settings())

    def _settings(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.settings}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the position from ``state_dict``, but follow the curve this scheduler was built with.

        Where the two curves differ the log says in what. If an epoch has another number of updates than it had, the position
        is converted. The current values are written to the optimizer, whose own state holds those of the checkpoint's curve.

        Args:
            state_dict: What :meth:`state_dict` or any of MMEngine's schedulers returned.
        """
        saved, own = state_dict.get('settings', {}), self._settings()
        changed = {name: f'{saved.get(name)} -> {value}' for name, value in own.items() if saved.get(name) != value}
        position = state_dict['_global_step']
        if saved.get('updates_per_epoch') and self.updates_per_epoch:
            position = round(position * self.updates_per_epoch / saved['updates_per_epoch'])
        if changed:
            print_log(
                f'{type(self).__name__}: the config differs from the checkpoint in {changed}; following the config from step {position}',
                logger='current',
                level=logging.WARNING,
            )
        self._move_to(position)
        # Past the end the values are ours to restore unless a later scheduler had taken over when the state was saved.
        held = position >= self.end and (changed or state_dict['_last_value'] == self._get_value())
        self._set_values(self._is_active() or bool(held))


def _window_is_open(optimizer: OptimizerType) -> bool:
    return isinstance(optimizer, OptimWrapper) and not optimizer.should_update()


def _peak_lrs(optimizer: OptimizerType, eta_max: float | Sequence[float] | None) -> list[float]:
    own = [group.get('initial_lr', group['lr']) for group in optimizer.param_groups]
    if eta_max is None:
        return own
    if not isinstance(eta_max, Sequence) or isinstance(eta_max, str):
        return [positive('eta_max', eta_max)] * len(own)
    finite_numbers('eta_max', eta_max)
    groups = len(getattr(optimizer, 'optimizer', optimizer).param_groups)
    if len(eta_max) != groups:
        raise ValueError(f'eta_max must be a number or one a group, got {len(eta_max)} for {groups} groups: {list(eta_max)}')
    return [positive('eta_max', peak) for peak in eta_max] + own[groups:]


def _checked_moms(moms: Sequence[float], optimizer: OptimizerType) -> tuple[float, float]:
    finite_numbers('moms', moms, 2, least=0, mend='each in [0, 1), or None')
    if max(moms) >= 1:
        raise ValueError(f'moms must be two numbers in [0, 1) or None, got {moms}')
    if not {'betas', 'momentum'} & set(optimizer.defaults):
        raise ValueError(f'moms={tuple(moms)} but the optimizer has neither betas nor momentum; set moms=None to move the LR alone')
    high, low = moms
    return high, low


def check_span(begin: float, end: float, total_steps: float | None, last_step: int = -1) -> None:
    """Raise ValueError unless these are numbers that a scheduler can count with; ``total_steps`` may be None."""
    finite_number('begin', begin, 0)
    finite_number('end', end, 0)
    if total_steps is not None:
        finite_number('total_steps', total_steps)
    whole_number('last_step', last_step, -1)


def _check_length(name: str, total_steps: int, begin: int, end: int) -> None:
    if not 0 < total_steps < INF - begin or total_steps != int(total_steps):
        raise ValueError(f'{name} needs total_steps or end to know its length, got total_steps={total_steps}, begin={begin}, end={end}')
