"""Random numbers of a sample that follow from the run's seed, the epoch and the sample alone."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset


def derived_seed(*numbers: int) -> int:
    """A 32-bit seed of its own for every tuple of whole numbers >= 0."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def seed_cpu(seed: int) -> None:
    """Seed Python's, numpy's and torch's generators on the CPU."""
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)


@contextmanager
def own_random_numbers(seed: int) -> Iterator[None]:
    """Within ``with own_random_numbers(seed):`` they come from ``seed``; outside they go on as if nothing had been drawn."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seed_cpu(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


class SeededSamples:
    """What a data loader's fetcher asks for the samples of a batch (``dataset.__getitems__``).

    A sample then is augmented the same way on whatever rank, in whatever worker and after whatever restart it is loaded.

    Args:
        dataset: The data set.
        seed: The run's.
        epoch: The epoch's number, in memory that the workers share with who sets it.
    """

    def __init__(self, dataset: Dataset, seed: int, epoch: Tensor) -> None:
        self.dataset, self.seed, self.epoch = dataset, seed, epoch

    def __call__(self, indices: Sequence[int]) -> list[Any]:
        """The samples at ``indices``."""
        return [self._sample(index) for index in indices]

    def _sample(self, index: int) -> Any:
        with own_random_numbers(derived_seed(self.seed, int(self.epoch), index)):
            return self.dataset[index]


def seed_samples(loader: DataLoader, seed: int) -> None:
    """Let ``loader``, which has a :class:`SeekableSampler`, load every sample with random numbers of its own from now on."""
    dataset: Any = loader.dataset  # torch's hints do not know what a loader asks of it
    sampler: Any = loader.sampler
    dataset.__getitems__ = SeededSamples(dataset, seed, sampler.shared_epoch)
