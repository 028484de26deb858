"""What connects :class:`AccumulativeAmpOptimWrapper` with a Runner's loop, data and checkpoints."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from mmengine.hooks import CheckpointHook as MMEngineCheckpointHook
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapperDict
from mmengine.runner import BaseLoop, IterBasedTrainLoop, Runner
from mmengine.runner.loops import _InfiniteDataloaderIterator
from torch.utils.data import DataLoader, Sampler

from bevfusion_plugin.engine.accumulation.runner_plan import accumulating_wrappers, samples_per_rank
from bevfusion_plugin.engine.checkpoints.position import KEY, Position
from bevfusion_plugin.engine.hooks.checkpoint_hook import CheckpointHook
from bevfusion_plugin.engine.sampling.seekable_sampler import SeekableSampler
from bevfusion_plugin.registry import HOOKS


@HOOKS.register_module()
class WindowHook(Hook):
    """Lets a training with accumulation go on where it stopped: in the middle of an epoch, with another number of GPUs.

    Tells the wrapper how long an epoch is and where it logs. Writes into every checkpoint where in its data the training stands, and
    takes a resumed training there: with the same total batch to the very next sample, in a loop over epochs or over iterations, if
    the training's sampler is a :class:`SeekableSampler`. A window that is still open when a training is stopped makes no update: the
    model is the one of the last checkpoint's kind.

    Raises:
        ValueError: Before training, if a checkpoint lies inside an epoch and the sampler can only begin one, or if MMEngine's
            CheckpointHook would save inside a window.
    """

    priority = 'VERY_HIGH'  # before whoever asks the wrapper

    def __init__(self) -> None:
        self._resumed: Position | None = None
        self._samples = 0  # that all ranks have behind them: of the epoch, or of the training in a loop over iterations

    def before_run(self, runner: Runner) -> None:
        """Take charge of where the wrapper starts, and let it log where this Runner logs, not where the one built last does."""
        for wrapper in accumulating_wrappers(runner):
            wrapper.message_hub, wrapper.in_charge = runner.message_hub, True

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Say in this run's micro-batches where the resumed one stood, before Runner reads it."""
        if not runner._resume or not isinstance(runner._train_loop, BaseLoop) or not accumulating_wrappers(runner):
            return
        meta, plan = checkpoint['meta'], _plan(runner)
        if KEY in meta:
            stored = Position(**meta[KEY])
        else:  # of a run without this hook, which had this plan as far as one can know
            epoch = 0 if _is_by_iteration(runner) else meta['epoch']
            stored = Position(epoch, meta['iter'] - epoch * plan['batches_per_epoch'], **plan)
            if not 0 <= stored.batches <= plan['batches_per_epoch']:
                stored = Position(epoch, 0, **plan)
        if _is_by_iteration(runner):
            batches = stored.windows * plan['accumulative_counts']
        else:
            batches = stored.batches_in_epoch(**plan)
        self._resumed = Position(stored.epoch, batches, **plan)
        meta['iter'] = stored.epoch * plan['batches_per_epoch'] + batches
        self._samples = stored.samples if _is_by_iteration(runner) else batches * plan['batch_size']

    def before_train(self, runner: Runner) -> None:
        """Tell the wrapper how long an epoch is, and open the data where the training goes on."""
        for wrapper in accumulating_wrappers(runner):
            wrapper.batches_per_epoch = runner.max_iters // runner.max_epochs
            if isinstance(runner.optim_wrapper, OptimWrapperDict):  # which tells its wrappers nothing of the model
                wrapper.correct_statistics(runner.model)
        if any(wrapper.window.accumulative_counts > 1 for wrapper in accumulating_wrappers(runner)):
            refuse_stock_checkpoints(runner)
        sampler, by_iteration = runner.train_dataloader.sampler, _is_by_iteration(runner)
        if by_iteration and isinstance(sampler, SeekableSampler):
            runner.train_loop.dataloader_iterator = batches_from(runner.train_dataloader, self._samples, runner.iter)
        elif self._resumed is not None and not by_iteration:
            self._seek(sampler, self._resumed)

    def _seek(self, sampler: Sampler, at: Position) -> None:
        if isinstance(sampler, SeekableSampler):
            sampler.seek(self._samples)
        elif at.batches:
            raise ValueError(
                f'the checkpoint lies inside epoch {at.epoch + 1}, after {at.batches} of {at.batches_per_epoch} micro-batches, '
                f"and {type(sampler).__name__} always begins at an epoch's start; set train_dataloader.sampler.type="
                "'bevfusion_plugin.SeekableSampler' (the same samples in the same order), or resume from a checkpoint "
                "of an epoch's end"
            )

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Store where the training stands."""
        if accumulating_wrappers(runner):
            plan, meta = _plan(runner), checkpoint['meta']
            epoch = 0 if _is_by_iteration(runner) else meta['epoch']
            meta[KEY] = asdict(Position(epoch, meta['iter'] - epoch * plan['batches_per_epoch'], **plan))

    def after_train(self, runner: Runner) -> None:
        """Leave a window out that is still open, because training was stopped early."""
        for wrapper in accumulating_wrappers(runner):
            if wrapper.window.is_open:
                runner.logger.info(
                    f'Training stopped inside a window: its {len(wrapper.window.micro_batches)} micro-batches made no update.'
                )
                wrapper.window.micro_batches = []
                wrapper.zero_grad()


def batches_from(loader: DataLoader, samples: int, done: int) -> Iterator[Any]:
    """Batches of a loop over iterations that goes on after ``samples`` samples of all ranks, passes over the data counted.

    Args:
        loader: The training's, with a :class:`SeekableSampler`.
        samples: How many.
        done: Batches that the loop takes first, to leave them behind; they are not loaded.
    """
    yield from itertools.repeat(None, done)
    sampler: Any = loader.sampler  # one that can seek; torch's hints know of an iterable
    epoch, rest = divmod(samples, len(sampler) * sampler.world_size)
    sampler.set_epoch(epoch)  # now, after DistSamplerSeedHook, to which a loop over iterations is one epoch
    sampler.seek(rest)
    batches = _InfiniteDataloaderIterator(loader)
    batches._epoch = epoch
    yield from batches


def refuse_stock_checkpoints(runner: Runner) -> None:
    """Make sure that no checkpoint is written inside a window: the gradients there are in no checkpoint.

    Raises:
        ValueError: If MMEngine's CheckpointHook saves by iterations.
    """
    for hook in runner.hooks:
        if isinstance(hook, MMEngineCheckpointHook) and not isinstance(hook, CheckpointHook) and not hook.by_epoch and hook.interval > 0:
            raise ValueError(
                f"MMEngine's CheckpointHook(by_epoch=False, interval={hook.interval}) saves inside windows of accumulated "
                "micro-batches; set default_hooks.checkpoint.type='bevfusion_plugin.CheckpointHook', which waits for the "
                "window's end"
            )


def _is_by_iteration(runner: Runner) -> bool:
    return isinstance(runner._train_loop, IterBasedTrainLoop)


def _plan(runner: Runner) -> dict[str, int]:
    """How this run counts, in the words of :class:`Position`."""
    wrapper = accumulating_wrappers(runner)[0]
    return dict(
        batches_per_epoch=runner.max_iters // runner.max_epochs,
        accumulative_counts=wrapper._accumulative_counts,
        batch_size=runner.world_size * (samples_per_rank(runner.train_dataloader) or 1),
    )
