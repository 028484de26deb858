"""Activation checkpointing: a module keeps its inputs alone, and the backward pass runs it again for the rest.

What is checkpointed are units: the blocks that a part of a detector is made of, or the part as a whole where it has none.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from bevfusion_plugin.ops.sparse.conv import SparseConv3d, SparseModule
from bevfusion_plugin.ops.sparse.tensor import SparseTensor


def checkpoint_units(part: nn.Module) -> list[nn.Module]:
    """The modules of ``part`` that are to be run again one by one: little is kept of each, and little exists at once.

    Of an image backbone they are the blocks that know ``with_cp`` (the word of mmcv and mmdet; Swin, ResNet). Of a sparse encoder
    they are the largest modules that keep their sites: a strided convolution of spconv finds its new sites in another order each
    time, and gradients would meet the wrong rows. Any other part is one unit.
    """
    able = [module for module in part.modules() if hasattr(module, 'with_cp')]
    blocks = [module for module in able if sum(hasattr(inner, 'with_cp') for inner in module.modules()) == 1]
    if blocks:
        return blocks
    if any(isinstance(module, SparseModule) for module in part.modules()):
        return list(_that_keep_their_sites(part))
    return [part]


def _that_keep_their_sites(part: nn.Module) -> Iterator[nn.Module]:
    if isinstance(part, SparseModule) and not any(isinstance(module, SparseConv3d) for module in part.modules()):
        yield part
    else:
        for child in part.children():
            yield from _that_keep_their_sites(child)


def start_checkpointing(unit: nn.Module) -> None:
    """From now on ``unit`` is run again by the backward pass, as long as its attribute ``is_run_again`` is True.

    A checkpointing of its own (``with_cp``, re-entrant in mmdet) gives way. The module keeps its class and its state dict, and
    may be copied: ``forward`` is an attribute that knows its module.
    """
    if hasattr(unit, 'with_cp'):
        setattr(unit, 'with_cp', False)
    setattr(unit, 'is_run_again', True)
    unit.forward = functools.partial(_checkpointed_forward, unit)


def _checkpointed_forward(unit: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """What ``unit`` gives. Dropout draws the same numbers again, and BatchNorm moves its running statistics once.

    Source: torch.utils.checkpoint, the variant that is not re-entrant: parameters get their gradients also where no input needs one
    (as with images and voxels), and any object may be an input or an output.
    """
    forward = functools.partial(type(unit).forward, unit)
    if not (unit.is_run_again and torch.is_grad_enabled()):
        return forward(*args, **kwargs)
    contexts = functools.partial(_contexts, unit)
    if args and isinstance(args[0], SparseTensor):  # its features as a tensor of their own: hooks on saved tensors then see them
        x, *others = args
        return checkpoint(
            _on_sites, forward, x.replace_feature(None), x.features, *others, use_reentrant=False, context_fn=contexts, **kwargs
        )
    return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, **kwargs)


def _on_sites(forward: functools.partial, sites: SparseTensor, features: Tensor, *others: Any, **kwargs: Any) -> Any:
    return forward(sites.replace_feature(features), *others, **kwargs)


def _contexts(unit: nn.Module) -> tuple[nullcontext, Any]:
    return nullcontext(), _resting_statistics(unit)


@contextmanager
def _resting_statistics(unit: nn.Module) -> Iterator[None]:
    """Within it the BatchNorms of ``unit`` move copies of their running statistics, which are thrown away.

    They cannot do without: torch saves the statistics for the backward pass, and both runs must save equally many tensors.
    """
    norms = [module for module in unit.modules() if isinstance(module, _BatchNorm) and module.training and module.running_mean is not None]
    kept = [(norm, norm.running_mean, norm.running_var, norm.num_batches_tracked) for norm in norms]
    statistics = [buffer for _, mean, variance, _ in kept for buffer in (mean, variance) if buffer is not None]
    copies = [torch.empty_like(buffer) for buffer in statistics]
    if copies:
        with torch.no_grad():
            torch._foreach_copy_(copies, statistics)
    for norm, mean, variance in zip(norms, copies[::2], copies[1::2]):
        norm.running_mean, norm.running_var, norm.num_batches_tracked = mean, variance, None  # None: it counts nothing
    try:
        yield
    finally:
        for norm, *buffers in kept:
            norm.running_mean, norm.running_var, norm.num_batches_tracked = buffers
