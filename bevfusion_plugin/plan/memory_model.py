"""How much memory one rank's training needs, from one small forward pass without a GPU.

Exact: parameters, buffers, gradients, optimizer state, the buckets of DistributedDataParallel. Counted by whoever fills in
:class:`ModelMemory`: what the forward pass keeps for the backward pass, each storage once, by the part of the model that saves it.
It is scaled here, part by part, from the small sizes to the real ones.

Estimated: gradients on their way through the backward pass, as two of the largest saved tensor, and what ALLOWANCES and
FRAGMENTATION name.

Not known: workspaces of cuDNN (with ``cudnn_benchmark`` they can be gigabytes), how the caching allocator cuts its blocks, what
else uses the GPU, tensors that an ``autograd.Function`` keeps as attributes instead of ``save_for_backward`` (index tables of
sparse convolutions), and kernels that save something else on CUDA than on a CPU. Measure on the GPU where it matters:
``tools/plan.py --probe``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

GIB = 1024**3
# CUDA context and loaded kernels about 0.5 GiB, NCCL's buffers 0.3, cuDNN's workspaces without cudnn_benchmark 0.2: customary
# values, not measured for this model. Fragmentation: share of the activations that lies in cut blocks of the allocator.
ALLOWANCES = {'CUDA context, NCCL, cuDNN': 1.0 * GIB}
FRAGMENTATION = 0.05
IN_FLIGHT = 2  # gradient of the output and of the input of the operation with the largest saved tensor


@dataclass(frozen=True)
class SavedBytes:
    """What a forward pass keeps for the backward pass.

    Attributes:
        fixed: Bytes that do not depend on the batch: copies of parameters in autocast's dtype.
        parts: Bytes by part of the model; '' is what no named part saved.
        largest: Bytes of the largest single storage by part.
    """

    fixed: int = 0
    parts: Mapping[str, int] = field(default_factory=dict)
    largest: Mapping[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """All of it."""
        return self.fixed + sum(self.parts.values())

    def scaled(self, factors: Mapping[str, float]) -> SavedBytes:
        """The prediction for other sizes: the bytes of each part times its factor."""
        return SavedBytes(
            self.fixed,
            {part: round(size * factors[part]) for part, size in self.parts.items()},
            {part: round(size * factors[part]) for part, size in self.largest.items()},
        )


@dataclass(frozen=True)
class ModelMemory:
    """What the training of a model needs, at the sizes of the forward pass that was counted.

    Attributes:
        parameters: Bytes of parameters and buffers.
        gradients: Bytes of the gradients.
        optimizer_state: Bytes of the optimizer's state.
        averaged: Bytes of a moving average of the weights.
        saved: What the forward pass keeps.
        recomputed: What a checkpointed module keeps while the backward pass runs it again; the largest one of each part.
        sizes: Sizes of that forward pass, by name (samples, pixels, ...).
        laws: Name of the size that the bytes of each part follow; the parts in the order that the forward pass runs them.
    """

    parameters: int
    gradients: int
    optimizer_state: int
    averaged: int
    saved: SavedBytes
    recomputed: Sequence[SavedBytes]
    sizes: Mapping[str, float]
    laws: Mapping[str, str]

    def factors(self, sizes: Mapping[str, float]) -> dict[str, float]:
        """By how much each part's bytes grow from the sizes counted to ``sizes``."""
        return {
            part: sizes[self.laws[part]] / self.sizes[self.laws[part]]
            for part in {*self.saved.parts, *(part for again in self.recomputed for part in again.parts)}
        }

    def rows(self, sizes: Mapping[str, float], ranks: int) -> dict[str, int]:
        """Bytes a GPU needs by what needs them.

        Args:
            sizes: The real sizes of a micro-batch, by the names of :attr:`sizes`.
            ranks: W; more than one adds the buckets that gradients are averaged in.
        """
        factors = self.factors(sizes)
        saved = self.saved.scaled(factors)
        again = [unit.scaled(factors) for unit in self.recomputed]
        recomputed = self._beyond(saved, again)
        largest = [size for each in (saved, *again) for size in each.largest.values()]
        rows = {
            'parameters and buffers': self.parameters,
            'gradients': self.gradients,
            'optimizer state': self.optimizer_state,
            'buckets of DistributedDataParallel': self.gradients if ranks > 1 else 0,
            'moving average of the weights': self.averaged,
            'activations': saved.total,
            'recomputed by checkpointing': recomputed,
            'gradients in flight (estimate)': IN_FLIGHT * max(largest, default=0),
            'fragmentation (estimate)': round(FRAGMENTATION * (saved.total + recomputed)),
            **{f'{name} (estimate)': round(size) for name, size in ALLOWANCES.items()},
        }
        return {name: size for name, size in rows.items() if size}

    def _beyond(self, saved: SavedBytes, recomputed: Sequence[SavedBytes]) -> int:
        """Bytes by which a recomputation outgrows ``saved``: what later parts kept is free by the time an earlier one runs again."""
        order = list(self.laws)
        peak = saved.total
        for again in recomputed:
            last = max(order.index(part) for part in again.parts)
            kept = saved.fixed + sum(saved.parts.get(part, 0) for part in order[: last + 1])
            peak = max(peak, kept + again.total)
        return peak - saved.total
