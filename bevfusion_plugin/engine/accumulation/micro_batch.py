"""What is remembered of a micro-batch until its window closes: how many samples, which, and what its loss was."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

# Where data samples say who they are, the most telling first.
ID_KEYS = ('token', 'sample_token', 'sample_idx', 'img_id', 'lidar_path', 'img_path')


@dataclass
class MicroBatch:
    """One forward pass.

    Attributes:
        samples: Samples in it; None if its inputs do not tell.
        sample_ids: Token, index or path of each sample, as far as the data samples carry one.
        terms: Detached scalar of each loss term.
        iteration: Which one it is, from 1.
        loss: The detached sum that was propagated back.
    """

    samples: int | None = None
    sample_ids: list[str] = field(default_factory=list)
    terms: dict[str, Tensor] = field(default_factory=dict)
    iteration: int = 0
    loss: Tensor | None = None

    def is_finite(self) -> bool:
        """Whether its loss is, or there is none; this waits for the device."""
        return self.loss is None or bool(torch.isfinite(self.loss))

    def __str__(self) -> str:
        terms = [f'{name}={value.item():g}' for name, value in self.terms.items() if not torch.isfinite(value)]
        if not terms and self.loss is not None:
            terms = [f'loss={self.loss.item():g}']
        return f'iteration {self.iteration}: {", ".join(terms)}, samples {", ".join(self.sample_ids) or "without an id"}'


def describe_forward(args: tuple, kwargs: dict[str, Any], losses: Any) -> MicroBatch:
    """The micro-batch that went into a model's ``forward`` in mode 'loss'.

    Args:
        args: Positional inputs of ``forward``.
        kwargs: Its keyword inputs; ``data_samples``, if there, tells how many samples there are and which.
        losses: Its output; a dict of tensors or lists of tensors, else it is ignored.
    """
    data_samples = kwargs.get('data_samples')
    data_samples = data_samples if isinstance(data_samples, (list, tuple)) else []
    ids = [_sample_id(getattr(sample, 'metainfo', {})) for sample in data_samples]
    terms = {name: _scalar(value) for name, value in losses.items()} if isinstance(losses, dict) else {}
    return MicroBatch(
        samples=len(data_samples) or _first_length([*args, *kwargs.values()]),
        sample_ids=[name for name in ids if name is not None],
        terms={name: value for name, value in terms.items() if value is not None},
    )


def describe_bad(bad: Sequence[MicroBatch], parameters: Sequence[str]) -> str:
    """A sentence about a window without a finite gradient.

    Args:
        bad: Its micro-batches whose losses were not finite.
        parameters: Names of the parameters whose gradients are not.
    """
    if bad:
        return f'Last window: {"; ".join(map(str, bad))}'
    named = f'{", ".join(parameters[:5])}{f" and {len(parameters) - 5} more" if len(parameters) > 5 else ""}'
    return (
        'Every loss on this rank is finite: look at its backward pass, or at another rank; not finite are the gradients of '
        f'{named or "no parameter that is known by name"}'
    )


def _sample_id(metainfo: dict[str, Any]) -> str | None:
    return next((str(metainfo[key]) for key in ID_KEYS if key in metainfo), None)


def _length(value: Any) -> int | None:
    """Length of a tensor's first dimension, of a list, or of the first value of a dict that has one."""
    if isinstance(value, dict):
        return _first_length(value.values())
    return len(value) if isinstance(value, Tensor) and value.dim() or isinstance(value, (list, tuple)) else None


def _first_length(values: Iterable[Any]) -> int | None:
    return next(filter(None, map(_length, values)), None)


def _scalar(value: Any) -> Tensor | None:
    """A loss term as MMEngine sums it up: the mean of a tensor, the sum of the means of a list."""
    tensors = [value] if isinstance(value, Tensor) else value if isinstance(value, (list, tuple)) else []
    means = [tensor.detach().mean() if tensor.dim() else tensor.detach() for tensor in tensors]
    return sum(means[1:], means[0]) if means else None
