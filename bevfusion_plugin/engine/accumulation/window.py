"""The window: which micro-batch belongs to which update, whether one is open, and what each micro-batch counts in it.

Letters: A micro-batches a window (``accumulative_counts``), L micro-batches an epoch.
"""

from __future__ import annotations

from mmengine.optim import OptimWrapper

from bevfusion_plugin.engine.accumulation.micro_batch import MicroBatch
from bevfusion_plugin.engine.accumulation.window_grid import WindowGrid
from bevfusion_plugin.plan.batch_plan import FLUSHES
from bevfusion_plugin.plan.checked_settings import one_of

WEIGHTS = ('micro_batch', 'samples')


class Window:
    """Where a training stands between two updates; ``optim_wrapper.window`` of our wrapper.

    Args:
        accumulative_counts: Micro-batches a full window, A.
        flush: ``'epoch'``: no window straddles an epoch. ``'train'``: windows run on.
        weight_by: ``'micro_batch'``: each counts the same. ``'samples'``: each counts by its samples, also across ranks.

    Attributes:
        count: Micro-batches of the training that are done.
        end: Count at which the training ends; below 1: unknown.
        batches_per_epoch: L; None: not known (yet), windows run on across epochs.
        micro_batches: Those whose gradients wait for their update; none while no window is open.
        planned: Micro-batches the open window is to have, A or fewer.
        usual_samples: Samples of a usual micro-batch, the same number on every rank.
        size: Micro-batches of the window closed last.
        updates: Updates applied so far.
        skipped: Updates left out because the gradient was not finite.
        applied: Whether the update of the window closed last was applied.

    Raises:
        ValueError: If ``flush`` or ``weight_by`` is another word.
    """

    def __init__(self, accumulative_counts: int, flush: str, weight_by: str) -> None:
        self.accumulative_counts = accumulative_counts
        self.flush = one_of('flush', flush, FLUSHES)
        self.weight_by = one_of('weight_by', weight_by, WEIGHTS)
        self.count, self.end = 0, -1
        self.batches_per_epoch: int | None = None
        self.micro_batches: list[MicroBatch] = []
        self.planned, self.usual_samples = 0, 1
        self.size = self.updates = self.skipped = 0
        self.applied = False

    @property
    def grid(self) -> WindowGrid:
        """Where its windows begin and end."""
        length = self.batches_per_epoch if self.flush == 'epoch' else None
        return WindowGrid(self.accumulative_counts, self.end, length)

    @property
    def is_open(self) -> bool:
        """Whether gradients wait for their update."""
        return bool(self.micro_batches)

    @property
    def is_closed_now(self) -> bool:
        """Whether the micro-batch just done was the last of a window, whatever became of its update."""
        return self.grid.is_edge(self.count)

    @property
    def closes_next(self) -> bool:
        """Whether the coming micro-batch is the last of its window."""
        return self.grid.is_edge(self.count + 1)

    def begin(self) -> None:
        """Plan the window that the coming micro-batch opens."""
        self.planned = self.grid.remaining(self.count)

    def close(self, applied: bool) -> list[MicroBatch]:
        """Count the update, which is made or left out; the window's micro-batches."""
        closed, self.micro_batches = self.micro_batches, []
        self.size, self.applied = len(closed), applied
        self.updates += applied
        self.skipped += not applied
        return closed

    def weight(self, micro_batch: MicroBatch) -> float:
        """Its weight, provisional with ``weight_by='samples'``: what is to come is not known yet.

        Raises:
            ValueError: If samples are to be counted and it does not tell them.
        """
        return 1 / self.planned if self.weight_by == 'micro_batch' else counted_samples(micro_batch) / self._planned_samples

    @property
    def _planned_samples(self) -> int:
        # A factor that all ranks share keeps the loss, and so the loss scale, in the range it has without weights.
        return self.planned * self.usual_samples

    @property
    def wanted(self) -> int:
        """What the weights given out were a share of: micro-batches, or samples."""
        return self.planned if self.weight_by == 'micro_batch' else self._planned_samples

    @property
    def got(self) -> int:
        """How much of that this rank had; where it is not what was wanted, the weights do not sum to 1 yet."""
        each_counts = self.weight_by == 'micro_batch'
        return len(self.micro_batches) if each_counts else sum(map(counted_samples, self.micro_batches))


def window_of(wrapper: OptimWrapper) -> Window | None:
    """The window of our wrapper; None for others, which have none."""
    return getattr(wrapper, 'window', None)


def made_update(wrapper: OptimWrapper) -> bool:
    """Whether the micro-batch just done changed the parameters; other wrappers than ours do not tell of skipped updates."""
    window = window_of(wrapper)
    return wrapper.should_update() and (window is None or window.applied)


def counted_samples(micro_batch: MicroBatch) -> int:
    """Samples of a micro-batch.

    Raises:
        ValueError: If its inputs did not tell.
    """
    if micro_batch.samples is None:
        raise ValueError(
            "weight_by='samples' cannot tell how many samples the model's inputs hold; run forward inside "
            "optim_context with data_samples or a tensor, or set weight_by='micro_batch'"
        )
    return micro_batch.samples
