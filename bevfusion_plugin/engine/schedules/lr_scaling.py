"""Scaling learning rates after schedulers were built, or inside a checkpoint.

Every schedule is homogeneous in its learning rates: start, peak, floor and current value times one factor give the same curve
times that factor. What makes a factor wrong is a value that was left out.
"""

from __future__ import annotations

from typing import Any
from collections.abc import Iterable

from mmengine.optim import OptimWrapper, _ParamScheduler
from mmengine.runner import Runner
from torch.utils.data import DataLoader

GROUP_KEYS = ('lr', 'initial_lr', 'max_lr', 'min_lr')
# Attributes of MMEngine's schedulers that hold learning rates, and `peak_lrs` of ours.
SCHEDULER_KEYS = ('base_values', 'eta_min', 'eta_max', 'min_values', '_last_value', 'peak_lrs')


def scale_entries(entries: dict[str, Any], keys: Iterable[str], ratio: float) -> None:
    """Multiply the numbers, or lists of numbers, under ``keys`` by ``ratio``, in place; what is absent or None stays so."""
    for key in keys:
        value = entries.get(key)
        if value is not None:
            entries[key] = [each * ratio for each in value] if isinstance(value, (list, tuple)) else value * ratio


def scale_scheduler(scheduler: _ParamScheduler, ratio: float) -> None:
    """Multiply every learning rate that ``scheduler`` holds; a scheduler of momentum is left alone."""
    if scheduler.param_name == 'lr':
        scale_entries(vars(scheduler), SCHEDULER_KEYS, ratio)


def scale_checkpoint(optimizer: dict[str, Any], schedulers: list[dict[str, Any]], ratio: float) -> None:
    """Multiply every learning rate in the stored states of one optimizer wrapper and its schedulers, in place."""
    for group in [*optimizer['param_groups'], optimizer.get('base_param_settings') or {}]:
        scale_entries(group, GROUP_KEYS, ratio)
    for state in schedulers:
        if state.get('param_name', 'lr') == 'lr':  # MMEngine's store it; ours all move the LR
            scale_entries(state, SCHEDULER_KEYS, ratio)
            scale_entries(state.get('settings', {}), SCHEDULER_KEYS, ratio)


def unscheduled(wrapper: OptimWrapper, ratio: float) -> None:
    """Bring ``wrapper``'s groups back to before any scheduler, and before MMEngine multiplied their LR by ``ratio``."""
    own = len(wrapper.optimizer.param_groups)
    for index, group in enumerate(wrapper.param_groups):
        group.pop('max_lr', None)
        group.pop('min_lr', None)
        for key in [key for key in group if key.startswith('initial_')]:
            group[key.removeprefix('initial_')] = group.pop(key)
        if 'betas' in group and 'momentum' in group:  # MMEngine's momentum schedulers keep a copy of beta1 there
            group['betas'] = (group['momentum'], *group['betas'][1:])
        if index < own:  # not the LR that is only shown, as base_lr
            group['lr'] /= ratio


def mmengine_ratio(runner: Runner) -> float:
    """What MMEngine's own ``Runner.scale_lr`` has multiplied the LR of every group by: linear, blind to accumulation."""
    settings, loader = runner.auto_scale_lr or {}, runner._train_dataloader
    if not settings.get('enable', False):
        return 1.0
    samples = loader.batch_size if isinstance(loader, DataLoader) else loader['batch_size']
    return runner.world_size * samples / settings['base_batch_size']
