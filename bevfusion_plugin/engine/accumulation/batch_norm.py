"""BatchNorm's running statistics under accumulation: how fast they move, whether they are still numbers, and the way back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def corrected_momentum(momentum: float, accumulative_counts: int) -> float:
    """m' such that A moving-average steps with m' forget as much as one with m: 1 - (1 - m)^(1/A).

    Example: 0.01 becomes 0.00501256 for A = 2 and 0.00250943 for A = 4.

    Args:
        momentum: Weight m of the newest batch in the running statistics, in [0, 1].
        accumulative_counts: Micro-batches a window, A.
    """
    return 1 - (1 - momentum) ** (1 / accumulative_counts)


def correct_bn_momentum(model: nn.Module, accumulative_counts: int) -> int:
    """Number of layers of ``model`` whose momentum now is :func:`corrected_momentum` of the one it was built with.

    Layers without running statistics, and those that keep a plain average (momentum None), are left alone. Calling it again,
    with the same A or another, corrects the momentum the layer was built with.
    """
    layers: list[Any] = [
        module for module in model.modules() if isinstance(getattr(module, 'running_mean', None), Tensor) and module.momentum is not None
    ]
    for layer in layers:
        layer.momentum_per_update = getattr(layer, 'momentum_per_update', layer.momentum)
        layer.momentum = corrected_momentum(layer.momentum_per_update, accumulative_counts)
    return len(layers)


def spoiled_statistics(model: nn.Module | None) -> list[str]:
    """Names of the running means and variances that hold a NaN or an infinite number."""
    buffers = [] if model is None else model.named_buffers()
    return [name for name, buffer in buffers if name.endswith(('running_mean', 'running_var')) and not torch.isfinite(buffer).all()]


class StatisticsAtStart:
    """Running statistics as they were when a window began: a forward pass that is thrown away has moved them."""

    def __init__(self) -> None:
        self._kept: list[tuple[list[Tensor], list[Tensor]]] = []  # statistics of the model and their copies, by kind

    def keep(self, model: nn.Module) -> None:
        """Copy the running means and variances of ``model`` and the counters beside them, a few kB."""
        named = dict(model.named_buffers())
        kinds = [
            [buffer for name, buffer in named.items() if name.rpartition('.')[2] in kind]
            for kind in (('running_mean', 'running_var'), ('num_batches_tracked',))
        ]
        self._kept = [(buffers, [torch.empty_like(buffer) for buffer in buffers]) for buffers in kinds if buffers]
        with torch.no_grad():
            for buffers, copies in self._kept:
                torch._foreach_copy_(copies, buffers)

    def restore(self) -> None:
        """Take back what has happened to them since; nothing is known after :meth:`forget`."""
        with torch.no_grad():
            for buffers, copies in self._kept:
                torch._foreach_copy_(buffers, copies)

    def forget(self) -> None:
        """The window is over."""
        self._kept = []
