"""The window that is open: its micro-batches, and what each of them counts in the update to come.

Letters: A micro-batches a window.
"""
from __future__ import annotations

from bevfusion_plugin.engine.accumulation.micro_batch import MicroBatch
from bevfusion_plugin.plan.checked_settings import one_of

WEIGHTS = ('micro_batch', 'samples')


class OpenWindow:
    """The micro-batches whose gradients wait for their update; none while no window is open.

    Args:
        weight_by: ``'micro_batch'``: each counts the same. ``'samples'``: each counts by its samples, also across ranks.

    Attributes:
        micro_batches: Those done so far.
        planned: Micro-batches the window is to have, A or fewer.
        usual_samples: Samples of a usual micro-batch, the same number on every rank.

    Raises:
        ValueError: If ``weight_by`` is neither.
    """

    def __init__(self, weight_by: str) -> None:
        self.weight_by = one_of('weight_by', weight_by, WEIGHTS)
        self.micro_batches: list[MicroBatch] = []
        self.planned = 0
        self.usual_samples = 1

    def __len__(self) -> int:
        return len(self.micro_batches)

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
        return len(self) if self.weight_by == 'micro_batch' else sum(each.samples for each in self.micro_batches)


def counted_samples(micro_batch: MicroBatch) -> int:
    """Samples of a micro-batch.

    Raises:
        ValueError: If its inputs did not tell.
    """
    if micro_batch.samples is None:
        raise ValueError("weight_by='samples' cannot tell how many samples the model's inputs hold; run forward inside "
                         "optim_context with data_samples or a tensor, or set weight_by='micro_batch'")
    return micro_batch.samples
