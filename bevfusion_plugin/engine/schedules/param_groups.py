"""Learning rate and momentum of an optimizer's parameter groups: read, told apart, written."""

from __future__ import annotations

from typing import Any


def momentum_of(group: dict[str, Any]) -> tuple[str, float] | None:
    """('beta1', its value) of an Adam group, ('momentum', its value) of an SGD group, None for others."""
    if 'betas' in group:
        return 'beta1', group['betas'][0]
    return ('momentum', group['momentum']) if 'momentum' in group else None


def set_momentum(group: dict[str, Any], value: float) -> None:
    """Write beta1 of an Adam group, the momentum of an SGD group."""
    if 'betas' in group:
        group['betas'] = (value, *group['betas'][1:])
    if 'momentum' in group:  # SGD's own, or the copy of beta1 that MMEngine's momentum schedulers leave for the log
        group['momentum'] = value


def distinct_groups(groups: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """The first group, by its index, of those that share learning rate and momentum."""
    found: dict[tuple, int] = {}
    for index, group in enumerate(groups):
        found.setdefault((group.get('initial_lr'), group['lr'], momentum_of(group)), index)
    return {index: groups[index] for index in found.values()}


def group_values(groups: dict[int, dict[str, Any]]) -> dict[str, float]:
    """``group<i>_lr`` and ``group<i>_beta1`` of each; of a single group ``beta1`` alone, since MMEngine logs its ``lr``."""
    values: dict[str, float] = {}
    for index, group in groups.items():
        prefix = f'group{index}_' if len(groups) > 1 else ''
        if prefix:
            values[f'{prefix}lr'] = group['lr']
        found = momentum_of(group)
        if found:
            name, value = found
            values[prefix + name] = value
    return values
