"""An optimizer wrapper that knows where in a window the training is.

Letters: A micro-batches a window (``accumulative_counts``), L micro-batches an epoch.
"""
from __future__ import annotations

import copy
from typing import Any

from mmengine.optim import OptimWrapper
from torch import nn
from torch.optim import Optimizer

from bevfusion_plugin.engine.accumulation.open_window import OpenWindow
from bevfusion_plugin.engine.accumulation.window_grid import WindowGrid
from bevfusion_plugin.plan.batch_plan import FLUSHES
from bevfusion_plugin.plan.checked_settings import one_of, positive_int


class WindowedOptimWrapper(OptimWrapper):
    """MMEngine's wrapper with windows that end where ``flush`` says.

    Args:
        optimizer: The optimizer to wrap.
        accumulative_counts: Micro-batches a window, A; ``'auto'``: what ``total_batch_size`` needs on the GPUs that are there.
        clip_grad: As MMEngine's.
        total_batch_size: Samples an update should see on all ranks; needed by ``'auto'``, checked otherwise.
        flush: ``'epoch'``: no window straddles an epoch. ``'train'``: MMEngine's way, windows run on.
        weight_by: What a micro-batch counts by in its window, see :class:`OpenWindow`.

    Attributes:
        is_auto: Whether ``accumulative_counts`` waits to be resolved.
        batches_per_epoch: L. A Runner tells it by itself; without one, set it if ``flush='epoch'`` is to mean anything.

    Raises:
        ValueError: On any wrong setting, with the value and the mend.
    """

    def __init__(self, optimizer: Optimizer, accumulative_counts: int | str, clip_grad: dict[str, Any] | None,
                 total_batch_size: int | None, flush: str, weight_by: str) -> None:
        self.is_auto = accumulative_counts == 'auto'
        if not self.is_auto:
            positive_int('accumulative_counts', accumulative_counts, "set optim_wrapper.accumulative_counts, or 'auto' with "
                         'total_batch_size')
        if self.is_auto or total_batch_size is not None:
            positive_int('total_batch_size', total_batch_size, 'set optim_wrapper.total_batch_size')
        super().__init__(optimizer, 1 if self.is_auto else accumulative_counts, copy.deepcopy(clip_grad))
        self.total_batch_size = total_batch_size
        self.flush = one_of('flush', flush, FLUSHES)
        self.batches_per_epoch: int | None = None
        self._window = OpenWindow(weight_by)
        self._start_count = 0
        self._static_graph = False

    @property
    def weight_by(self) -> str:
        """What the gradient of a micro-batch is weighted by in its window's."""
        return self._window.weight_by

    @property
    def window_position(self) -> int:
        """Micro-batches whose gradient waits for its update."""
        return len(self._window)

    def should_update(self) -> bool:
        """Whether the micro-batch just done closed a window, applied or skipped."""
        return self._grid().is_edge(self._inner_count)

    def should_sync(self) -> bool:
        """Whether the backward pass of the coming micro-batch must synchronise the ranks.

        The one that closes a window must. With ``static_graph`` DistributedDataParallel learns the graph from the training's
        first and asserts that it was synchronised; a mean over the ranks does not change the window's mean.
        """
        return self._grid().is_edge(self._inner_count + 1) or self._learns_graph()

    def _learns_graph(self) -> bool:
        return self._static_graph and self._inner_count == self._start_count

    def _grid(self) -> WindowGrid:
        length = self._epoch_length()
        # A loop over epochs always resumes at the start of one; a loop over iterations (one long epoch) anywhere.
        start = self._start_count if length and length < self._max_counts else 0
        return WindowGrid(self._accumulative_counts, self._max_counts, length, start)

    def _epoch_length(self) -> int | None:
        if self.flush == 'train' or self.batches_per_epoch:
            return None if self.flush == 'train' else self.batches_per_epoch
        info = self.message_hub.runtime_info
        known = info.get('max_iters') == self._max_counts and 'max_epochs' in info
        return self._max_counts // info['max_epochs'] if known else None

    def initialize_count_status(self, model: nn.Module, init_counts: int, max_counts: int) -> None:
        """Set where training starts; ``Runner`` calls it after loading or resuming.

        Args:
            model: The model, wrapped or not.
            init_counts: Micro-batches already done.
            max_counts: Micro-batches when training ends.

        Raises:
            ValueError: If ``accumulative_counts='auto'`` was not resolved.
        """
        self._require_counts()
        self._inner_count = self._start_count = init_counts
        self._static_graph = getattr(model, 'static_graph', False)
        self._max_counts = max_counts
        self._window.micro_batches = []

    def _require_counts(self) -> None:
        if self.is_auto:
            raise ValueError("accumulative_counts='auto' was not resolved; add dict(type='bevfusion_plugin.AutoScaleLRHook') "
                             'to custom_hooks of a config for Runner, or give the number')
