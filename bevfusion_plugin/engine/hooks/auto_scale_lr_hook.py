"""Learning rates that follow the total batch."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.runner import BaseLoop, Runner

from bevfusion_plugin.engine.accumulation.runner_plan import batch_plan_of, samples_per_rank, wrappers_of
from bevfusion_plugin.engine.schedules.curve_scheduler import CurveScheduler
from bevfusion_plugin.engine.schedules.lr_scaling import (
    GROUP_KEYS,
    mmengine_ratio,
    scale_checkpoint,
    scale_entries,
    scale_scheduler,
    unscheduled,
)
from bevfusion_plugin.engine.schedules.runner_schedulers import rebuild_schedulers, schedulers_of
from bevfusion_plugin.plan.batch_plan import BatchPlan
from bevfusion_plugin.plan.checked_settings import switch
from bevfusion_plugin.registry import HOOKS


@HOOKS.register_module()
class AutoScaleLRHook(Hook):
    """Scales start, peak and floor of every learning rate by the plan's LR ratio, once, whatever scheduler moves it.

    Driven by the config's usual ``auto_scale_lr = dict(enable=True, base_batch_size=32, rule='linear')``, where ``rule`` may be
    ``'linear'``, ``'sqrt'`` or ``'none'``. MMEngine's own scaling, which knows neither accumulation nor peaks nor floors, runs
    before and is taken back. With ``enable=False`` nothing changes, and one line says what would have. After a resume with
    another plan the checkpoint's learning rates are brought to the new one. Also resolves ``accumulative_counts='auto'``.

    Args:
        enable: Overrides ``auto_scale_lr.enable``. Needed only where MMEngine's own scaling fails: with a ``DataLoader``
            object that has a batch sampler.

    Raises:
        ValueError: Before training, under another class than MMEngine's Runner, on a wrong ``auto_scale_lr``, a plan that
            contradicts itself, or schedulers that must be built anew and whose config the Runner was not given.
    """

    priority = 'HIGH'

    def __init__(self, enable: bool | None = None):
        self.enable = enable if enable is None else switch('enable', enable, 'set it in the hook, or leave it out')

    def before_run(self, runner: Runner) -> None:
        """Resolve, scale and log; does nothing outside training or a second time."""
        if not isinstance(runner._train_loop, BaseLoop) or not isinstance(runner.optim_wrapper, OptimWrapper):
            return
        if not hasattr(runner, 'auto_scale_lr'):
            raise ValueError(
                f"AutoScaleLRHook scales what MMEngine's Runner has built, got {type(runner).__name__}; use Runner "
                '(runner_type), or take the hook out and set the learning rate by hand'
            )
        for name, wrapper in wrappers_of(runner).items():
            if not hasattr(wrapper, 'lr_ratio'):
                self._set_up(runner, name, wrapper)

    def _set_up(self, runner: Runner, name: str, wrapper: OptimWrapper) -> None:
        was_auto = getattr(wrapper, 'is_auto', False)
        if not (self._is_on(runner) or was_auto) and samples_per_rank(runner.train_dataloader) is None:
            runner.logger.info('auto_scale_lr is off: LR left as it is; the batch sampler does not tell the total batch.')
            return
        plan = batch_plan_of(runner, wrapper)
        if was_auto:
            wrapper.is_auto, wrapper._accumulative_counts = False, plan.accumulative_counts
        ratio = plan.lr_ratio if self._is_on(runner) else 1.0
        taken_back = mmengine_ratio(runner)
        if taken_back != 1 or was_auto and any(isinstance(s, CurveScheduler) for s in schedulers_of(runner, name)):
            unscheduled(wrapper, taken_back)
            rebuild_schedulers(runner, name, wrapper)
        for group in wrapper.param_groups:
            scale_entries(group, GROUP_KEYS, ratio)
        for scheduler in schedulers_of(runner, name):
            scale_scheduler(scheduler, ratio)
        wrapper.batch_plan, wrapper.lr_ratio = plan, ratio
        if taken_back != 1:
            runner.logger.info(f"MMEngine's own scaling of the LR by {taken_back:.6g} is taken back.")
        runner.logger.info(self._summary(runner, plan))

    def _is_on(self, runner: Runner) -> bool:
        if self.enable is not None:
            return self.enable
        return switch('auto_scale_lr.enable', (runner.auto_scale_lr or {}).get('enable', False), 'write it without quotes')

    def _summary(self, runner: Runner, plan: BatchPlan) -> str:
        seen = f'an update sees {plan} samples (ranks x samples x accumulation)'
        if plan.base_batch_size is None:
            return f'auto_scale_lr names no base_batch_size: LR left as it is; {seen}.'
        factor = f'{plan.lr_ratio:.6g} ({plan.rule}, base batch {plan.base_batch_size})'
        if self._is_on(runner):
            return f'auto_scale_lr: all learning rates times {factor}; {seen}.'
        return f'auto_scale_lr is off: LR left as it is, enable=True would scale it by {factor}; {seen}.'

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Store the plan beside the learning rates it scaled."""
        checkpoint['batch_plan'] = {name: _to_store(wrapper) for name, wrapper in _planned(runner).items()}

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Bring the checkpoint's learning rates to the present plan, before they are loaded."""
        if not runner._resume or not isinstance(runner.optim_wrapper, OptimWrapper):
            return
        plans = checkpoint.setdefault('batch_plan', {})
        for name, wrapper in _planned(runner).items():
            stored = dict(plans.get(name, {}))
            old_ratio = stored.pop('lr_ratio', 1.0)
            old_plan = BatchPlan(**stored) if stored else 'unknown, its LR taken as unscaled'
            if old_plan != wrapper.batch_plan:
                runner.logger.warning(
                    f'Resuming with another batch plan: was {old_plan}, is {wrapper.batch_plan}; '
                    f'LR ratio was {old_ratio:.6g}, is {wrapper.lr_ratio:.6g}.'
                )
            if old_ratio != wrapper.lr_ratio and self._is_on(runner) and 'optimizer' in checkpoint:
                _scale_stored(checkpoint, name, wrapper.lr_ratio / old_ratio)
            plans[name] = _to_store(wrapper)  # a second hook finds it done


def _planned(runner: Runner) -> dict[str, OptimWrapper]:
    return {name: wrapper for name, wrapper in wrappers_of(runner).items() if hasattr(wrapper, 'batch_plan')}


def _to_store(wrapper: OptimWrapper) -> dict[str, Any]:
    return dict(asdict(wrapper.batch_plan), lr_ratio=wrapper.lr_ratio)


def _scale_stored(checkpoint: dict[str, Any], name: str, ratio: float) -> None:
    optimizer: Any = checkpoint['optimizer']  # of several optimizers, dicts by their names
    schedulers: Any = checkpoint.get('param_schedulers') or []
    if name:
        optimizer, schedulers = optimizer[name], schedulers[name] if schedulers else []
    scale_checkpoint(optimizer, schedulers, ratio)
