"""An optimizer wrapper whose counting is a window's.

Letters: A micro-batches a window (``accumulative_counts``), L micro-batches an epoch.
"""

from __future__ import annotations

import copy
import logging
from typing import Any

from mmengine.logging import print_log
from mmengine.optim import OptimWrapper
from torch import nn
from torch.optim import Optimizer

from bevfusion_plugin.engine.accumulation.gradients import checked_clip_grad
from bevfusion_plugin.engine.accumulation.window import Window
from bevfusion_plugin.plan.checked_settings import positive_int

HOOK = "dict(type='bevfusion_plugin.WindowHook')"


class WindowedOptimWrapper(OptimWrapper):
    """MMEngine's wrapper with windows that end where ``flush`` says.

    Args:
        optimizer: The optimizer to wrap.
        accumulative_counts: Micro-batches a window, A; ``'auto'``: what ``total_batch_size`` needs on the GPUs that are there.
        clip_grad: As MMEngine's.
        total_batch_size: Samples an update should see on all ranks; needed by ``'auto'``, checked otherwise.
        flush: ``'epoch'``: no window straddles an epoch. ``'train'``: MMEngine's way, windows run on.
        weight_by: What a micro-batch counts by in its window, see :class:`Window`.

    Attributes:
        window: Which window, which update, whether one is open.
        updates, skipped_updates, update_applied: Of the window: updates applied so far, left out, and whether the last one was.
        is_auto: Whether ``accumulative_counts`` waits to be resolved.
        in_charge: Whether a :class:`WindowHook` has set where the training starts.

    Raises:
        ValueError: On any wrong setting, with the value and the mend.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        accumulative_counts: int | str,
        clip_grad: dict[str, Any] | None,
        total_batch_size: int | None,
        flush: str,
        weight_by: str,
    ) -> None:
        self.is_auto = isinstance(accumulative_counts, str) and accumulative_counts == 'auto'
        counts = (
            1
            if self.is_auto
            else positive_int(
                'accumulative_counts', accumulative_counts, 'set optim_wrapper.accumulative_counts, or \'auto\' with total_batch_size'
            )
        )
        if self.is_auto or total_batch_size is not None:
            positive_int('total_batch_size', total_batch_size, 'set optim_wrapper.total_batch_size')
        self.window = Window(counts, flush, weight_by)
        super().__init__(optimizer, counts, copy.deepcopy(checked_clip_grad(clip_grad)))
        self.total_batch_size = total_batch_size
        self.in_charge = False
        self._start_count = 0
        self._static_graph = False

    # MMEngine counts in three attributes of its wrapper; they are the window's.
    _inner_count = property(lambda self: self.window.count, lambda self, count: setattr(self.window, 'count', count))
    _max_counts = property(lambda self: self.window.end, lambda self, end: setattr(self.window, 'end', end))
    _accumulative_counts = property(
        lambda self: self.window.accumulative_counts, lambda self, counts: setattr(self.window, 'accumulative_counts', counts)
    )

    flush = property(lambda self: self.window.flush, doc='Whether windows end with the epoch.')
    weight_by = property(lambda self: self.window.weight_by, doc="What the gradient of a micro-batch is weighted by in its window's.")
    batches_per_epoch = property(
        lambda self: self.window.batches_per_epoch,
        lambda self, length: setattr(self.window, 'batches_per_epoch', length),
        doc="L. A Runner tells it by itself; without one, set it if ``flush='epoch'`` is to mean anything.",
    )
    updates = property(lambda self: self.window.updates)
    skipped_updates = property(lambda self: self.window.skipped)
    update_applied = property(lambda self: self.window.applied)

    def should_update(self) -> bool:
        """Whether the micro-batch just done closed a window, applied or skipped."""
        return self.window.is_closed_now

    def should_sync(self) -> bool:
        """Whether the backward pass of the coming micro-batch must synchronise the ranks.

        The one that closes a window must. With ``static_graph`` DistributedDataParallel learns the graph from the training's
        first and asserts that it was synchronised; a mean over the ranks does not change the window's mean.
        """
        return self.window.closes_next or self._learns_graph()

    def _learns_graph(self) -> bool:
        return self._static_graph and self._inner_count == self._start_count

    def _ask_epoch_length(self) -> None:
        """Where no :class:`WindowHook` has told it: what a Runner's message hub says of the loop that runs.

        Raises:
            ValueError: If the training was resumed inside an epoch: MMEngine's loop begins the epoch again, and the schedule would be
                wrong from there on.
        """
        info, window = self.message_hub.runtime_info, self.window
        if window.batches_per_epoch or window.flush == 'train':
            return
        if info.get('max_iters') == window.end and 'max_epochs' in info:
            window.batches_per_epoch = window.end // info['max_epochs']
            is_inside = window.batches_per_epoch < window.end and self._start_count % window.batches_per_epoch
            if is_inside and not self.in_charge:
                raise ValueError(
                    f'the training goes on at micro-batch {self._start_count}, which is no start of an epoch of '
                    f'{window.batches_per_epoch}; add {HOOK} to custom_hooks, which goes on from there'
                )

    def initialize_count_status(self, model: nn.Module, init_counts: int, max_counts: int) -> None:
        """Set where training starts; ``Runner`` calls it after loading or resuming.

        Args:
            model: The model, wrapped or not.
            init_counts: Micro-batches already done.
            max_counts: Micro-batches when training ends.

        Raises:
            ValueError: If ``accumulative_counts='auto'`` was not resolved, or the model is sharded.
        """
        refuse_sharded(model)
        self._require_counts()
        self._inner_count = self._start_count = init_counts
        self._static_graph = getattr(model, 'static_graph', False)
        self._max_counts = max_counts
        self.window.micro_batches = []
        if self._accumulative_counts > 1 and not self.in_charge:
            print_log(
                f'{type(self).__name__} accumulates without {HOOK}: add it to custom_hooks, or the training cannot go on from a '
                'checkpoint inside an epoch, nor on another number of GPUs',
                logger='current',
                level=logging.WARNING,
            )

    def _require_counts(self) -> None:
        if self.is_auto:
            raise ValueError(
                "accumulative_counts='auto' was not resolved; add dict(type='bevfusion_plugin.AutoScaleLRHook') "
                'to custom_hooks of a config for Runner, or give the number'
            )

    def _parameters(self, with_gradient: bool = False) -> list[nn.Parameter]:
        return [
            parameter
            for group in self.optimizer.param_groups
            for parameter in group['params']
            if parameter.grad is not None or not with_gradient
        ]


def refuse_sharded(model: nn.Module) -> None:
    """Accumulation needs whole gradients on every rank.

    Raises:
        ValueError: If ``model`` is in torch's FullyShardedDataParallel, of either kind.
    """
    kinds = {kind.__name__ for kind in type(model).__mro__} & {'FullyShardedDataParallel', 'FSDPModule'}
    if kinds:
        raise ValueError(
            f'AccumulativeAmpOptimWrapper does not work with {kinds.pop()}, which holds a part of each gradient on each rank; '
            "leave model_wrapper_cfg out (DistributedDataParallel) or set its type to 'MMDistributedDataParallel'"
        )
