import random
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.dataset import worker_init_fn
from mmengine.runner import BaseLoop, EpochBasedTrainLoop
from torch.utils.data import DataLoader, Dataset

from bevfusion_plugin.engine.hooks.epoch_seed_hook import EpochSeedHook
from bevfusion_plugin.engine.sampling.seeded_samples import derived_seed, seed_samples
from bevfusion_plugin.engine.sampling.seekable_sampler import SeekableSampler


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
        EpochSeedHook().before_train_epoch(SimpleNamespace(seed=3, epoch=epoch, iter=6 * epoch, rank=0, train_dataloader=loader))
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


def test_a_step_draws_the_same_whatever_was_drawn_before_it():
    hook, draws = EpochSeedHook(), []
    for before in (0, 5):
        torch.rand(before), np.random.rand(before)
        hook.before_train_iter(SimpleNamespace(seed=3, rank=1, iter=40), 0)
        draws.append((torch.rand(1).item(), np.random.rand(), random.random()))
    assert draws[0] == draws[1]
    hook.before_train_iter(SimpleNamespace(seed=3, rank=1, iter=41), 0)
    assert torch.rand(1).item() != draws[0][0]


@pytest.mark.parametrize('settings', [dict(num_workers=0), dict(num_workers=2), dict(num_workers=2, persistent_workers=True)])
def test_with_our_sampler_a_sample_draws_the_same_in_any_worker_from_any_start(settings):
    def epochs(settings, begin=0):
        loader = DataLoader(Draws(), sampler=SeekableSampler(Draws(), seed=0), batch_size=2, **settings)
        runner = SimpleNamespace(
            seed=3, epoch=1, iter=0, rank=0, train_dataloader=loader, _train_loop=BaseLoop.__new__(EpochBasedTrainLoop)
        )
        EpochSeedHook().before_run(runner)
        drawn = []
        for epoch in (1, 2):
            loader.sampler.set_epoch(epoch)
            loader.sampler.seek(begin if epoch == 1 else 0)
            EpochSeedHook().before_train_epoch(runner)
            drawn.append([float(x) for batch in loader for x in batch])
        return drawn

    whole = epochs(dict(num_workers=1))
    assert len({*whole[0], *whole[1]}) == 12
    assert epochs(settings) == whole
    assert epochs(settings, begin=4) == [whole[0][4:], whole[1]]


def test_a_sample_leaves_no_trace_in_the_random_numbers_of_the_process():
    loader = DataLoader(Draws(), sampler=SeekableSampler(Draws(), seed=0))
    seed_samples(loader, 3)
    np.random.seed(1)
    expected = np.random.rand()
    np.random.seed(1)
    loader.dataset.__getitems__([0, 1])
    assert np.random.rand() == expected


def test_ranks_and_iterations_have_seeds_of_their_own():
    assert len({derived_seed(0, rank, iteration) for iteration in range(20) for rank in range(8)}) == 160
