import random
from functools import partial
from types import SimpleNamespace

import numpy as np
import torch
from mmengine.dataset import worker_init_fn
from torch.utils.data import DataLoader, Dataset

from bevfusion_plugin.engine.hooks.epoch_seed_hook import EpochSeedHook, epoch_seed


class Draws(Dataset):
    """Each item is a fresh draw of numpy's global generator."""

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return np.random.rand()


def run_epochs(epochs, **loader):
    init = partial(worker_init_fn, num_workers=loader.get('num_workers', 0), rank=0, seed=0)
    loader = DataLoader(Draws(), worker_init_fn=init, **loader)
    drawn = []
    for epoch in epochs:
        EpochSeedHook().before_train_epoch(SimpleNamespace(seed=3, epoch=epoch, rank=0, train_dataloader=loader))
        drawn.append([float(x) for batch in loader for x in batch])
    return drawn


def test_an_epoch_draws_the_same_after_a_resume_and_other_epochs_draw_otherwise():
    for kwargs in (dict(), dict(num_workers=2), dict(num_workers=2, persistent_workers=True)):
        whole = run_epochs([0, 1, 2], **kwargs)
        assert run_epochs([2], **kwargs) == whole[2:], kwargs
        assert len({tuple(epoch) for epoch in whole}) == 3, kwargs


def test_python_and_torch_are_seeded_too():
    draws = []
    for _ in range(2):
        run_epochs([5])
        draws.append((random.random(), torch.rand(1).item()))
    assert draws[0][1] == draws[1][1] and draws[0][0] == draws[1][0]


def test_ranks_and_epochs_have_seeds_of_their_own():
    assert len({epoch_seed(0, epoch, rank) for epoch in range(20) for rank in range(8)}) == 160
