"""The order of an epoch's samples, entered at any point.

Letters: W ranks, N samples of the data set, T total batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sized

import torch
from mmengine.dist import get_dist_info, sync_random_seed
from torch.utils.data import Sampler

from bevfusion_plugin.plan.checked_settings import LARGEST, positive_int, switch, whole_number
from bevfusion_plugin.registry import DATA_SAMPLERS


def epoch_order(samples: int, seed: int | None, epoch: int, multiple: int) -> list[int]:
    """Indices of one epoch's samples for all ranks together, the first ones repeated at the end up to a multiple of ``multiple``.

    Args:
        samples: N.
        seed: What the order is drawn from, with the epoch; None: in the data set's order.
        epoch: From 0.
        multiple: W, or T.
    """
    generator = None if seed is None else torch.Generator().manual_seed(seed + epoch)
    order = torch.arange(samples) if seed is None else torch.randperm(samples, generator=generator)
    return list(itertools.islice(itertools.cycle(order.tolist()), -(-samples // multiple) * multiple))


@DATA_SAMPLERS.register_module()
class SeekableSampler(Sampler):
    """MMEngine's DefaultSampler, the same samples in the same order, which can begin inside an epoch.

    The k-th micro-batch of all ranks together holds the k-th W*b samples of the epoch's order, so an update sees the same samples on
    any number of GPUs with the same total batch. A resumed training goes on at the sample where it stopped.

    Args:
        dataset: The data set.
        shuffle: Draw a new order every epoch.
        seed: What the order is drawn from, the same on every rank; None: the ranks agree on one.
        total_batch_size: Fill the epoch up to a whole number of total batches, T. Then every update has its whole batch, and an
            epoch as many updates on any number of GPUs. None: to a multiple of W, as DefaultSampler does.

    Attributes:
        shared_epoch: The epoch whose order is next, in memory that a loader's workers share: those that outlive an epoch see it move.

    Raises:
        ValueError: If the data set is empty, ``total_batch_size`` cannot be dealt to the ranks, or another argument is of a wrong kind.
    """

    def __init__(self, dataset: Sized, shuffle: bool = True, seed: int | None = None, total_batch_size: int | None = None) -> None:
        positive_int('the number of samples', len(dataset), 'look at ann_file and data_prefix of train_dataloader.dataset')
        self.dataset, self.shuffle = dataset, switch('shuffle', shuffle)
        self.rank, self.world_size = get_dist_info()
        self.seed = sync_random_seed() if seed is None else whole_number('seed', seed, -LARGEST)
        self.total_batch_size = total_batch_size
        if (
            total_batch_size is not None
            and positive_int('total_batch_size', total_batch_size, 'set train_dataloader.sampler.total_batch_size') % self.world_size
        ):
            raise ValueError(
                f'total_batch_size {total_batch_size} cannot be dealt to {self.world_size} ranks; set '
                'train_dataloader.sampler.total_batch_size to a multiple, or leave it out'
            )
        self.shared_epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._start = 0

    @property
    def epoch(self) -> int:
        """The epoch whose order is next."""
        return int(self.shared_epoch)

    def __len__(self) -> int:
        """Samples an epoch has for this rank, wherever it begins."""
        multiple = self.total_batch_size or self.world_size
        return -(-len(self.dataset) // multiple) * multiple // self.world_size

    def __iter__(self) -> Iterator[int]:
        """Indices for this rank; after :meth:`seek` the first call begins there."""
        order = epoch_order(len(self.dataset), self.seed if self.shuffle else None, self.epoch, self.total_batch_size or self.world_size)
        start, self._start = self._start, 0
        return iter(order[start + self.rank :: self.world_size])

    def set_epoch(self, epoch: int) -> None:
        """Take the order of epoch ``epoch``, from 0."""
        self.shared_epoch.fill_(epoch)

    def seek(self, samples: int) -> None:
        """Begin the next epoch after its first ``samples`` samples, counted over all ranks (a multiple of W)."""
        self._start = samples
