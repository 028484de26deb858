"""A model whose losses are written down beforehand, and what each rank does with it in the tests of the divergence sentinel."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any
from collections.abc import Iterable

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from toy_training import ToyData, ToyModel, linear_net, toy_runner, toy_loader

from bevfusion_plugin.engine.hooks.divergence_sentinel_hook import TrainingDiverged


class ScriptedModel(ToyModel):
    """Micro-batch number i has the loss, gradient norm and ``matched_ious`` of ``script[i]``; an epoch is 4 of them.

    Without ``matched_ious`` in the script there is none in the log either.
    """

    def __init__(self, script: Iterable[dict[str, float]], start: int = 0) -> None:
        super().__init__(linear_net)
        self.script, self.next = list(script), start

    def forward(self, x: torch.Tensor, y: torch.Tensor, mode: str = 'loss') -> Any:
        line, self.next = self.script[self.next], self.next + 1
        parameter = self.net.bias.sum()
        slope = line.get('grad_norm', 1.0)
        losses = dict(loss_fit=line['loss'] + slope * (parameter - parameter.detach()) + 0 * self.net.weight.sum())
        if 'matched_ious' in line:
            losses['matched_ious'] = torch.tensor(line['matched_ious'])
        return losses


def scripted_run(
    folder: Path,
    script: list[dict[str, float]],
    hook: dict[str, Any],
    start: int = 0,
    accumulative_counts: int = 1,
    ranks: int = 1,
    **overrides: Any,
) -> Runner:
    """A Runner over the script in epochs of 4 micro-batches, with the sentinel and a checkpoint an epoch of which one is kept."""
    folder.mkdir(exist_ok=True)
    settings = dict(
        train_dataloader=toy_loader(ToyData(8 * ranks)),
        train_cfg=dict(by_epoch=True, max_epochs=len(script) // 4),
        log_level='WARNING',
        optim_wrapper=dict(
            type='bevfusion_plugin.AccumulativeAmpOptimWrapper',
            dtype='float32',
            max_bad_windows=100,
            accumulative_counts=accumulative_counts,
            optimizer=dict(type='SGD', lr=1e-3),
        ),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1, max_keep_ckpts=1)),
        custom_hooks=[dict(type='bevfusion_plugin.DivergenceSentinelHook', **hook)],
    )
    return toy_runner(folder, ScriptedModel(script, start), **{**settings, **overrides})


class SlowReport(Hook):
    """Takes a second on the main rank to write what others write after a divergence."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def after_divergence(self, runner: Runner) -> None:
        if runner.rank == 0:
            time.sleep(1)
            self.path.touch()


def diverging_on_one_rank(rank: int, world_size: int, folder: str) -> dict[str, Any]:
    """What each rank raises, when, and whether all that is to be written was there by then, if only rank 1's loss rises.

    The gradient norm rises on all, as ranks share their gradients.
    """
    report = Path(folder) / 'slow_report'
    script = [dict(loss=1.0, grad_norm=2.0)] * 12 + [dict(loss=1.0 if rank == 0 else 9.0, grad_norm=90.0)] * 12
    runner = scripted_run(
        Path(folder) / f'rank{rank}',
        script,
        dict(action='stop', patience=4, warmup=0),
        default_hooks=dict(checkpoint=None),
        ranks=world_size,
    )
    runner.register_hook(SlowReport(report))
    try:
        runner.train()
    except TrainingDiverged as error:
        return dict(error=str(error), iteration=runner.iter, written=report.exists())
    return dict(error=None, iteration=runner.iter)
