"""Where the windows of a training begin and end, as pure arithmetic on the count of micro-batches."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class WindowGrid:
    """The windows between two counts of micro-batches.

    Attributes:
        accumulative_counts: Micro-batches a full window, A.
        end: Count at which training ends, closing the last window; below 1: unknown.
        batches_per_epoch: Micro-batches an epoch, L, whose end closes a window; None: windows run on across epochs.
    """

    accumulative_counts: int
    end: int = -1
    batches_per_epoch: int | None = None

    def position(self, count: int) -> int:
        """Micro-batches of the current epoch (of the training, if windows run on) that are done after ``count`` in all."""
        return count % self.batches_per_epoch if self.batches_per_epoch else count

    def is_edge(self, count: int) -> bool:
        """Whether no window is open after ``count`` micro-batches."""
        return self.position(count) % self.accumulative_counts == 0 or count == self.end

    def remaining(self, count: int) -> int:
        """Micro-batches from ``count`` to the next edge, at least 1."""
        position = self.position(count)
        edges = [self.accumulative_counts - position % self.accumulative_counts]
        if self.batches_per_epoch:
            edges.append(self.batches_per_epoch - position)
        if self.end > count:
            edges.append(self.end - count)
        return min(edges)
