"""Notices a training that diverges, keeps the last good checkpoint and, if told so, stops."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_reduce, barrier, master_only
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner
from torch import Tensor

from bevfusion_plugin.engine.accumulation.optim_wrapper import AccumulativeAmpOptimWrapper
from bevfusion_plugin.engine.checkpoints.kept_copy import copy_checkpoint, copy_name
from bevfusion_plugin.engine.checkpoints.resuming import newest_checkpoint
from bevfusion_plugin.engine.hooks.divergence import DivergenceDetector, DivergenceLimits
from bevfusion_plugin.plan.checked_settings import one_of
from bevfusion_plugin.registry import HOOKS

ACTIONS = ('warn', 'stop')
REPORT = 'divergence.json'
STATE = 'divergence_sentinel'
IOU = 'matched_ious'
SAVED = ('_updates', '_guarding', '_alarmed', '_kept', '_copy')


class TrainingDiverged(RuntimeError):
    """The training was stopped because it diverged; the message says what was seen and where to resume."""


class WindowMeans:
    """Means of the loss and of ``matched_ious`` over the micro-batches of a window; reading them waits for the device once."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._batches = 0

    def add(self, outputs: dict[str, Any]) -> None:
        """Take in what ``train_step`` returned for one micro-batch.

        Raises:
            ValueError: If it holds no loss.
        """
        if not isinstance(outputs, dict) or 'loss' not in outputs:
            names = list(outputs) if isinstance(outputs, dict) else type(outputs).__name__
            raise ValueError(
                f"DivergenceSentinelHook needs the loss that train_step returns under 'loss', got {names}; take the "
                'hook out of custom_hooks'
            )
        for name in ('loss', IOU):
            if name in outputs:
                value = torch.as_tensor(outputs[name]).detach().double().mean()
                self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._batches += 1

    def take(self) -> dict[str, float]:
        """The means over the window and all ranks; the next micro-batch begins a new window."""
        means = torch.stack(list(self._sums.values())) / self._batches
        all_reduce(means, 'mean')  # the same numbers on every rank, so that all of them decide alike
        values = dict(zip(self._sums, means.tolist()))
        self._sums, self._batches = {}, 0
        return values


@HOOKS.register_module()
class DivergenceSentinelHook(Hook):
    """Watches loss, gradient norm, ``matched_ious`` and skipped updates, one judgement an update.

    As soon as a number is out of bounds, the newest checkpoint is copied to ``last_good_<name>`` beside it, out of reach of
    ``CheckpointHook.max_keep_ckpts``; only the newest such copy stays, and none if no rule is ever broken. When one is,
    ``divergence.json`` in the work dir says what was seen, and the method ``after_divergence(runner)`` of every hook that has
    one is called. When all rules hold again, in this run or in one that was resumed and has come past that update, the update
    is added to it as ``over``. Loss, gradient norm and IoU are judged by the median of the last 25 updates against the run's
    own median of the last 4,000, so that a healthy model of any scale passes.

    Surely lost is a run whose loss is no number in an update that was made, or for ``patience`` updates, or that breaks two of
    the rules on loss, gradient norm and IoU at once. An update that was skipped has spoiled nothing.

    Works with any optimizer wrapper, but only :class:`AccumulativeAmpOptimWrapper` tells of skipped updates, and MMEngine's own
    tell the gradient norm only with ``clip_grad``.

    Args:
        action: ``'warn'``: log once and go on. ``'stop'``: do so while one rule is broken; if the run surely is lost, raise
            :class:`TrainingDiverged` on all ranks, before anything else is saved, and point ``--resume`` to the last good
            checkpoint.
        loss_ratio: Loss over its running median for ``patience`` updates; None: not judged.
        grad_norm_ratio: Gradient norm before clipping over its running median, for ``patience`` updates in which it also is
            above ``clip_grad.max_norm``, if there is one; None: not judged.
        grad_norm: Gradient norm before clipping that is too much for this model, for ``patience`` updates; None: only the ratio
            counts.
        matched_ious: Mean IoU of matched boxes below which the model has lost the objects, after the first epoch, if it has
            halved, too; None: not judged.
        skipped_share: Share of skipped updates, after ``skipped_after``; None: not judged.
        skipped_after: Updates that a dynamic loss scale may take to settle.
        patience: Updates in a row.
        warmup: Updates at the start in which only a loss that is no number counts.

    Raises:
        ValueError: On a limit that cannot be, or at the start of training with several optimizers.
    """

    # After MMEngine's RuntimeInfoHook, before LoggerHook and CheckpointHook.
    priority = 'NORMAL'

    def __init__(
        self,
        action: str = 'warn',
        loss_ratio: float | None = 2.0,
        grad_norm_ratio: float | None = 5.0,
        grad_norm: float | None = None,
        matched_ious: float | None = 0.1,
        skipped_share: float | None = 0.01,
        skipped_after: int = 2000,
        patience: int = 100,
        warmup: int = 500,
    ) -> None:
        self.action = one_of('action', action, ACTIONS)
        self.detector = DivergenceDetector(
            DivergenceLimits(loss_ratio, grad_norm_ratio, grad_norm, matched_ious, skipped_share, skipped_after, patience, warmup)
        )
        self._means = WindowMeans()
        self._updates = 0  # counted here only where the wrapper does not
        self._guarding = self._alarmed = False
        self._kept: str | None = None  # the last good checkpoint
        self._copy: str | None = None  # it, if it is a copy of ours that may go again
        self._open: dict[str, Any] | None = None  # what divergence.json says, unless it is over

    def before_train(self, runner: Runner) -> None:
        """Check the wrapper; take up what the resumed run reported, or clear away what another one in this folder did."""
        if isinstance(runner.optim_wrapper, OptimWrapperDict):
            raise ValueError('DivergenceSentinelHook cannot tell the updates of several optimizers apart; take it out of custom_hooks')
        self.detector.clip_norm = clip_norm(runner.optim_wrapper)
        report = Path(runner.work_dir) / REPORT
        if runner._resume:
            self._open = open_report(report)
        else:
            remove_file(report)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Judge the update that this micro-batch closed, if it closed one.

        Raises:
            TrainingDiverged: If the run surely is lost and ``action='stop'``.
        """
        self._means.add(outputs)
        wrapper = runner.optim_wrapper
        if not wrapper.should_update():
            return
        values = {**self._means.take(), **self._counters(runner, wrapper)}
        update = int(values.pop('update'))
        news = self.detector.observe(update, values, epochs_completed(runner), update_applied(wrapper))
        self._guard(runner)
        if news:
            self._report(runner, update, values, news)
        elif self._open is not None and update > self._open['update'] and not self.detector.is_suspicious:
            self._close_report(runner, update, self._open)

    def _counters(self, runner: Runner, wrapper: OptimWrapper) -> dict[str, float]:
        if isinstance(wrapper, AccumulativeAmpOptimWrapper):
            return dict(update=wrapper.updates, grad_norm=wrapper.grad_norm, skipped_updates=wrapper.skipped_updates)
        self._updates += 1
        logged = runner.message_hub.log_scalars.get('train/grad_norm')
        return dict(update=self._updates, **({} if logged is None else dict(grad_norm=float(logged.current()))))

    def _guard(self, runner: Runner) -> None:
        """Keep the newest checkpoint where a suspicion begins: what is saved later may be spoiled."""
        if self.detector.is_suspicious and not self._guarding:
            newest = newest_checkpoint(runner)
            copy = copy_name(newest)
            if self._copy != copy:
                self._drop_copy()
            if newest and copy:
                copy_checkpoint(Path(newest), Path(copy))
            self._alarmed = self._alarmed and self._copy == copy
            self._kept, self._copy = copy or newest, copy
        self._guarding = self.detector.is_suspicious

    def _drop_copy(self) -> None:
        if self._copy and not self._alarmed:
            remove_file(Path(self._copy))

    def after_train(self, runner: Runner) -> None:
        """Clear away a copy that was not needed."""
        self._drop_copy()

    def _report(self, runner: Runner, update: int, values: dict[str, float], news: list[str]) -> None:
        self._alarmed = True
        lost = self.detector.is_lost
        stops = lost and self.action == 'stop'
        self._open = dict(
            update=update,
            lost=lost,
            reasons=list(self.detector.active.values()),
            values=finite_or_text({**values, 'loss_median': self.detector.loss_median}),
            checkpoint=self._kept,
        )
        write_divergence(Path(runner.work_dir), self._open)
        if stops and self._kept:
            write_text(Path(runner.work_dir) / 'last_checkpoint', self._kept)
        runner.call_hook('after_divergence')
        mend = f'resume from {self._kept}' if self._kept else 'no checkpoint was saved before; start again'
        message = (
            f'the training {"diverges" if lost else "may diverge"} at update {update} (iteration {runner.iter + 1}): '
            f'{"; ".join(news if not lost else self._open["reasons"])}. To mend it, {mend} with a lower learning rate; '
            f'{Path(runner.work_dir) / REPORT} holds the numbers'
        )
        if stops:
            barrier()  # a launcher ends all ranks with the first: the main one must have written everything
            raise TrainingDiverged(message)
        runner.logger.warning(message)

    def _close_report(self, runner: Runner, update: int, report: dict[str, Any]) -> None:
        """Make it history: the run has recovered, or was resumed and came past it."""
        write_divergence(Path(runner.work_dir), {**report, 'over': update})
        runner.logger.info(f'update {update}: what was reported at update {report["update"]} is over')
        self._open = None

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Store what was seen so far."""
        own = {name: getattr(self, name) for name in SAVED}
        checkpoint[STATE] = dict(own, detector=self.detector.state_dict())

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Go on with it in a resumed run; weights that are only loaded begin a new one."""
        if runner._resume and STATE in checkpoint:
            self.detector.load_state_dict(checkpoint[STATE]['detector'])
            for name in SAVED:
                setattr(self, name, checkpoint[STATE][name])


def epochs_completed(runner: Runner) -> int:
    """Passes over the data that are done, also in a loop over iterations, which calls all of them one epoch."""
    return (runner.iter + 1) // len(runner.train_dataloader)


def clip_norm(wrapper: OptimWrapper) -> float | None:
    """The gradient norm that ``wrapper`` clips to; None if it does not clip, by value, or only to have the norm logged."""
    norm = (wrapper.clip_grad_kwargs or {}).get('max_norm', math.inf)
    return norm if math.isfinite(norm) else None


def update_applied(wrapper: OptimWrapper) -> bool:
    """Whether the window's update was made, if its loss was no number.

    MMEngine's wrappers do not tell: the plain one makes every update, the one with a gradient scaler leaves such a one out.
    """
    if isinstance(wrapper, AccumulativeAmpOptimWrapper):
        return wrapper.update_applied
    scaler = getattr(wrapper, 'loss_scaler', None)
    return scaler is None or not scaler.is_enabled()


def open_report(path: Path) -> dict[str, Any] | None:
    """What a run before this one reported to ``path`` and is not over; None if there is nothing that can be read."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):  # the training report names a damaged one; a training does not end for it
        return None
    is_open = isinstance(found, dict) and isinstance(found.get('update'), int) and 'over' not in found
    return found if is_open else None


def finite_or_text(values: dict[str, float | None]) -> dict[str, float | str | None]:
    """``values`` with 'nan' and 'inf' as text, which JSON has no numbers for."""
    return {name: value if value is None or math.isfinite(value) else str(value) for name, value in values.items()}


def write_divergence(work_dir: Path, report: dict[str, Any]) -> None:
    """Write ``divergence.json``."""
    write_text(work_dir / REPORT, json.dumps(report, indent=2, allow_nan=False))


@master_only
def write_text(path: Path, text: str) -> None:
    """Write on the main process."""
    path.write_text(text)


@master_only
def remove_file(path: Path) -> None:
    """Remove on the main process, if it is there."""
    path.unlink(missing_ok=True)
