"""Schedulers that move a group's LR, and beta1 or momentum with it, along the curves of :mod:`bevfusion_plugin.engine.schedules.curves`.

All of them set values in closed form from the index of the coming update, so position is their only state. They count
updates: a micro-batch that leaves the window of an MMEngine ``OptimWrapper`` open does not count, so update k uses value k
whatever ``accumulative_counts`` is. With ``by_epoch=False``, ``begin``, ``end`` and ``total_steps`` are therefore numbers of
updates; with ``by_epoch=True, convert_to_iter_based=True`` they are epochs and are converted. (``Runner`` fills a missing
``end`` of a ``by_epoch=False`` scheduler with a number of micro-batches: give ``end`` yourself when accumulating.)
"""

from __future__ import annotations

from typing import Any
from collections.abc import Callable, Sequence

from mmengine.optim.scheduler.param_scheduler import INF, OptimizerType

from bevfusion_plugin.engine.schedules.curve_scheduler import CurveScheduler, check_span
from bevfusion_plugin.engine.schedules.curves import cosine_warmup, one_cycle, staircase_cosine, step_decay
from bevfusion_plugin.plan.checked_settings import checked_share, finite_number, finite_numbers, positive
from bevfusion_plugin.registry import PARAM_SCHEDULERS

MOST_RAISED = 10  # times the LR: such a floor is no floor any more


@PARAM_SCHEDULERS.register_module()
class OneCycleParamScheduler(CurveScheduler):
    """OpenPCDet's one-cycle: the LR rises and falls while beta1 (Adam) or momentum (SGD) falls and rises.

    Args:
        optimizer: Optimizer or wrapper.
        moms: beta1 or momentum at both ends and at the turn (OpenPCDet: MOMS); None: move the LR alone. beta2 stays.
        pct_start: Share of ``total_steps`` the LR rises (PCT_START), in [0, 1].
        mom_pct_start: Share at which beta1 turns, if not ``pct_start``.
        div_factor: Peak over the first LR (DIV_FACTOR).
        final_div_factor: First LR over the LR the last phase aims at.
        eta_max: Peak LR, one number or one a group of the optimizer. None: each group's own LR (OpenPCDet: LR), so that
            ``lr_mult`` and LR scaling hold.
        total_steps: Length of the cycle; None: ``end - begin``.
        begin: First step of this scheduler. In updates (or epochs), as are ``end`` and ``total_steps``.
        end: First step it no longer touches; from there on its last values stay.
        last_step: Index of the last step, counted from ``begin``, when resuming without a state dict.
        by_epoch: Step once an epoch; add ``convert_to_iter_based=True`` to the config to step once an update.
        verbose: Print every value.

    Source:
        OpenPCDet tools/train_utils/optimization/learning_schedules_fastai.py, OneCycle, equal to it in every update. It has no
        counterpart of ``mom_pct_start``, ``eta_max`` and ``begin``; its final_div_factor is always 1e4.
    """

    settings = CurveScheduler.settings + ('total_steps', 'pct_start', 'div_factor', 'final_div_factor', 'moms', 'mom_pct_start')

    def __init__(
        self,
        optimizer: OptimizerType,
        moms: Sequence[float] | None = (0.95, 0.85),
        pct_start: float = 0.4,
        mom_pct_start: float | None = None,
        div_factor: float = 10.0,
        final_div_factor: float = 1e4,
        eta_max: float | Sequence[float] | None = None,
        total_steps: int | None = None,
        begin: int = 0,
        end: int = INF,
        last_step: int = -1,
        by_epoch: bool = True,
        verbose: bool = False,
    ):
        self.pct_start = checked_share('pct_start', pct_start)
        self.div_factor = positive('div_factor', div_factor)
        self.final_div_factor = positive('final_div_factor', final_div_factor)
        super().__init__(
            optimizer,
            begin,
            end,
            last_step,
            by_epoch,
            verbose,
            total_steps,
            eta_max,
            moms,
            pct_start if mom_pct_start is None else mom_pct_start,
        )

    def _lr(self, index: int, peak: float) -> float:
        low = peak / self.div_factor
        return one_cycle(index, self.total_steps, self.pct_start, low, peak, low / self.final_div_factor)


@PARAM_SCHEDULERS.register_module()
class CosineAnnealingParamScheduler(CurveScheduler):
    """OpenPCDet's adam_cosineanneal: warm-up from LR/3, then a cosine staircase, one step an epoch, to LR/1000.

    Args:
        optimizer: Optimizer or wrapper; each group's own LR is its peak.
        warmup_iters: Steps of the linear warm-up (OpenPCDet: WARMUP_ITER). Updates even where the rest is in epochs and
            converted.
        num_epochs: Steps of the staircase (NUM_EPOCHS). None: ``total_steps`` before any conversion, so needed only for
            ``by_epoch=False``, where an epoch is ``total_steps / num_epochs`` updates.
        moms: beta1 or momentum at both ends and at the turn (MOMS); None: move the LR alone.
        pct_start: Share of ``total_steps`` at which beta1 turns (PCT_START), in [0, 1].
        total_steps: As in :class:`OneCycleParamScheduler`, as are the others.
        begin: See there.
        end: See there.
        last_step: See there.
        by_epoch: See there.
        verbose: See there.

    Source:
        OpenPCDet tools/train_utils/optimization/learning_schedules_fastai.py, CosineAnnealing, equal to it in every update.
    """

    settings = CurveScheduler.settings + ('total_steps', 'num_epochs', 'warmup_iters', 'moms', 'mom_pct_start')

    def __init__(
        self,
        optimizer: OptimizerType,
        warmup_iters: int = 0,
        num_epochs: int | None = None,
        moms: Sequence[float] | None = (0.95, 0.85),
        pct_start: float = 0.4,
        total_steps: int | None = None,
        begin: int = 0,
        end: int = INF,
        last_step: int = -1,
        by_epoch: bool = True,
        verbose: bool = False,
    ):
        check_span(begin, end, total_steps)
        if num_epochs is None and not by_epoch:
            raise ValueError('num_epochs is missing: by_epoch=False needs it to know how long an epoch is')
        self.warmup_iters = finite_number('warmup_iters', warmup_iters, 0)
        self.num_epochs = (total_steps or end - begin) if num_epochs is None else num_epochs
        positive('num_epochs', self.num_epochs)
        super().__init__(optimizer, begin, end, last_step, by_epoch, verbose, total_steps, None, moms, pct_start)

    @classmethod
    def _in_updates(cls, kwargs: dict[str, Any], to_updates: Callable[[float], int]) -> dict[str, Any]:
        epochs = kwargs.get('total_steps') or kwargs.get('end', INF) - kwargs.get('begin', 0)
        return {'num_epochs': epochs, **super()._in_updates(kwargs, to_updates)}

    def _lr(self, index: int, peak: float) -> float:
        return staircase_cosine(index, self.total_steps, self.num_epochs, self.warmup_iters, peak)


@PARAM_SCHEDULERS.register_module()
class StepDecayLR(CurveScheduler):
    """The LR times ``gamma`` from each milestone on, with a floor: what OpenPCDet's adam and sgd use.

    Args:
        optimizer: Optimizer or wrapper; each group's own LR is its peak.
        milestones: Steps that decay (OpenPCDet: DECAY_STEP_LIST), counted from the start of training and not from ``begin``,
            so that a warm-up before it does not move them. Any order; a repeated one counts twice.
        gamma: Factor of a decay (LR_DECAY).
        eta_min: Floor of the LR (LR_CLIP); above the LR it raises it from the start, as OpenPCDet's does; more than ten times
            the LR is refused. 0: none.
        begin: As in :class:`OneCycleParamScheduler`, as are the others.
        end: See there.
        last_step: See there.
        by_epoch: See there.
        verbose: See there.

    Source:
        OpenPCDet tools/train_utils/optimization/__init__.py, build_scheduler.
    """

    settings = CurveScheduler.settings + ('milestones', 'gamma', 'eta_min')

    def __init__(
        self,
        optimizer: OptimizerType,
        milestones: Sequence[int],
        gamma: float = 0.1,
        eta_min: float = 0.0,
        begin: int = 0,
        end: int = INF,
        last_step: int = -1,
        by_epoch: bool = True,
        verbose: bool = False,
    ):
        self.milestones = sorted(finite_numbers('milestones', milestones, least=0))
        self.gamma = positive('gamma', gamma)
        self.eta_min = finite_number('eta_min', eta_min, 0, mend='0 sets no floor')
        super().__init__(optimizer, begin, end, last_step, by_epoch, verbose)
        if any(self.peak_lrs) and eta_min > MOST_RAISED * max(self.peak_lrs):
            raise ValueError(
                f'eta_min must be a floor below the LR of {max(self.peak_lrs):g}, got {eta_min!r}, more than {MOST_RAISED} '
                'times as much; 0 sets no floor'
            )

    @classmethod
    def _in_updates(cls, kwargs: dict[str, Any], to_updates: Callable[[float], int]) -> dict[str, Any]:
        milestones = finite_numbers('milestones', kwargs['milestones'], least=0)
        return {**super()._in_updates(kwargs, to_updates), 'milestones': [to_updates(milestone) for milestone in milestones]}

    def _lr(self, index: int, peak: float) -> float:
        return step_decay(self.begin + index, self.milestones, self.gamma, self.eta_min, peak)


@PARAM_SCHEDULERS.register_module()
class CosineWarmupLR(CurveScheduler):
    """A cosine warm-up from LR/div_factor that reaches the LR at ``end``, where the next scheduler takes over.

    OpenPCDet means it to precede the step decay (LR_WARMUP) but crashes on building it. Written as it was meant::

        param_scheduler = [dict(type='bevfusion_plugin.CosineWarmupLR', end=1, convert_to_iter_based=True),
                           dict(type='bevfusion_plugin.StepDecayLR', milestones=[35, 45], begin=1, convert_to_iter_based=True)]

    Args:
        optimizer: Optimizer or wrapper; each group's own LR is its peak.
        div_factor: LR over the first LR (OpenPCDet: DIV_FACTOR).
        total_steps: As in :class:`OneCycleParamScheduler`, as are the others.
        begin: See there.
        end: See there (WARMUP_EPOCH).
        last_step: See there.
        by_epoch: See there.
        verbose: See there.

    Source:
        OpenPCDet tools/train_utils/optimization/learning_schedules_fastai.py, CosineWarmupLR.
    """

    settings = CurveScheduler.settings + ('total_steps', 'div_factor')

    def __init__(
        self,
        optimizer: OptimizerType,
        div_factor: float = 10.0,
        total_steps: int | None = None,
        begin: int = 0,
        end: int = INF,
        last_step: int = -1,
        by_epoch: bool = True,
        verbose: bool = False,
    ):
        self.div_factor = positive('div_factor', div_factor)
        super().__init__(optimizer, begin, end, last_step, by_epoch, verbose, total_steps)

    def _lr(self, index: int, peak: float) -> float:
        return cosine_warmup(index, self.total_steps, peak / self.div_factor, peak)
