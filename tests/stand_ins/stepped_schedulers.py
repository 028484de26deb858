"""Optimizers of one weight a group, and what their groups hold while schedulers step."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.optim import OptimWrapper

from bevfusion_plugin import CosineAnnealingParamScheduler, CosineWarmupLR, OneCycleParamScheduler, StepDecayLR

PEAK = 1e-3


def make_optimizer(*lrs: float, kind: str = 'AdamW', **settings: Any) -> torch.optim.Optimizer:
    groups = [dict(params=[torch.nn.Parameter(torch.ones(1))], lr=lr) for lr in lrs or (PEAK,)]
    return getattr(torch.optim, kind)(groups, lr=PEAK, **settings)


def values(optimizer: torch.optim.Optimizer | OptimWrapper) -> list[tuple]:
    """What the coming update uses, a group an entry."""
    groups = getattr(optimizer, 'optimizer', optimizer).param_groups
    return [(group['lr'], group.get('betas'), group.get('momentum')) for group in groups]


def walk(optimizer, *schedulers, steps: int) -> list[list[tuple]]:
    rows = []
    for _ in range(steps):
        rows.append(values(optimizer))
        for scheduler in schedulers:
            scheduler.step()
    return rows


def lrs(optimizer, *schedulers, steps: int) -> list[float]:
    return [row[0][0] for row in walk(optimizer, *schedulers, steps=steps)]


MAKERS = {
    'one_cycle': lambda optimizer, **span: OneCycleParamScheduler(optimizer, by_epoch=False, **span),
    'cosine_annealing': lambda optimizer, **span: CosineAnnealingParamScheduler(
        optimizer, warmup_iters=3, num_epochs=4, by_epoch=False, **span
    ),
    'step_decay': lambda optimizer, **span: StepDecayLR(optimizer, [4, 9], by_epoch=False, **span),
    'cosine_warmup': lambda optimizer, **span: CosineWarmupLR(optimizer, by_epoch=False, **span),
}
