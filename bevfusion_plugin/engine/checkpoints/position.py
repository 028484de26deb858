"""Where in its data a training stands, told so that it can go on there with other GPUs, samples a GPU or accumulation.

Letters: W ranks, b samples a rank a micro-batch, A micro-batches a window, L micro-batches an epoch, T = W*b*A.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

KEY = 'position'  # in a checkpoint's meta


@dataclass(frozen=True)
class Position:
    """What a checkpoint says of it.

    Attributes:
        epoch: Epochs done; 0 in a loop over iterations.
        batches: Micro-batches done since.
        batches_per_epoch: L of that run.
        accumulative_counts: A of that run.
        batch_size: W*b of that run: samples that its ranks took at once.
    """

    epoch: int
    batches: int
    batches_per_epoch: int
    accumulative_counts: int
    batch_size: int

    @property
    def windows(self) -> int:
        """Windows closed since the epoch began."""
        full, rest = divmod(self.batches, self.accumulative_counts)
        return full + (rest > 0 and self.batches == self.batches_per_epoch)

    @property
    def samples(self) -> int:
        """Samples in them, over all ranks."""
        return self.windows * self.accumulative_counts * self.batch_size

    def batches_in_epoch(self, batches_per_epoch: int, accumulative_counts: int, batch_size: int) -> int:
        """Micro-batches of the epoch that a run of another plan has behind it, at an edge of its windows.

        The samples decide: with the same total batch not one is seen twice or left out, with another less than one total batch of the new
        plan is seen twice.
        """
        if self.batches >= self.batches_per_epoch:
            return batches_per_epoch
        windows = self.samples // (accumulative_counts * batch_size)
        return min(windows * accumulative_counts, batches_per_epoch)


def progress(meta: Mapping[str, Any]) -> tuple[float, int]:
    """What orders the checkpoints of a run by how far they are, also where its number of GPUs has changed.

    Args:
        meta: A checkpoint's.
    """
    position = Position(**meta[KEY]) if KEY in meta else None
    share = position.batches / position.batches_per_epoch if position else 0.0
    return meta['epoch'] + share, meta['iter']
