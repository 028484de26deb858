"""How many damaged samples a training has gone past, in its log and report."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.runner import Runner

from bevfusion_plugin.plan.checked_settings import positive_int
from bevfusion_plugin.registry import HOOKS


def skipping_data_sets(dataset: Any) -> Iterator[Any]:
    """The data sets, inside all wrappers, that count what they skip (``bevfusion_plugin.SkipBadSamples``)."""
    if hasattr(dataset, 'skipped_samples'):
        yield dataset
    for inner in [*getattr(dataset, 'datasets', []), *([dataset.dataset] if hasattr(dataset, 'dataset') else [])]:
        yield from skipping_data_sets(inner)


@HOOKS.register_module()
class SkippedSamplesHook(Hook):
    """Logs ``skipped_samples``, the damaged samples that all ranks together have skipped since the start or resume.

    It is a column of every log line and a curve of the training report. Without ``bevfusion_plugin.SkipBadSamples`` around the
    training data it does nothing.

    Args:
        interval: Micro-batches between two counts over the ranks, which wait for each other then.
    """

    priority = 'NORMAL'  # before LoggerHook

    def __init__(self, interval: int = 10) -> None:
        self.interval = positive_int('interval', interval)
        self._counted: list[Any] = []
        self._total = 0

    def before_train(self, runner: Runner) -> None:
        """Find what counts."""
        self._counted = list(skipping_data_sets(runner.train_dataloader.dataset))
        self._log(runner)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Count now and then, and at the end of an epoch, in front of its last log line."""
        if self.every_n_train_iters(runner, self.interval) or self.end_of_epoch(runner.train_dataloader, batch_idx):
            self._log(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        """Say how many there were."""
        if self._total:
            runner.logger.warning(
                f'{self._total} damaged samples were skipped so far, on all ranks together; each is logged once, and '
                'tools/check_data.py lists them all'
            )

    def _log(self, runner: Runner) -> None:
        if self._counted:
            total = torch.tensor(sum(dataset.skipped_samples for dataset in self._counted))
            all_reduce(total, 'sum')
            self._total = int(total)
            runner.message_hub.update_scalar('train/skipped_samples', self._total)
