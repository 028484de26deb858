"""Makes the random numbers of a training a function of where it stands, so that a resumed run draws the same."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import BaseLoop, Runner

from bevfusion_plugin.engine.sampling.seeded_samples import derived_seed, seed_cpu, seed_samples
from bevfusion_plugin.engine.sampling.seekable_sampler import SeekableSampler
from bevfusion_plugin.registry import HOOKS


@HOOKS.register_module()
class EpochSeedHook(Hook):
    """Seeds Python, numpy and torch at every micro-batch, and with a :class:`SeekableSampler` at every sample that is loaded.

    Checkpoints hold no random states, so without this a resumed run draws the augmentations of epoch 1 again, and data loaders without
    persistent workers repeat theirs every epoch. A model's random numbers follow from the run's seed, the rank and the iteration; a
    sample's from the run's seed, the epoch and the sample, on whatever rank and in whatever worker it is loaded.

    With another sampler the loader's workers are seeded and started anew every epoch, and only a run resumed at an epoch's start
    draws what the uninterrupted one would have. Where objects are pasted, take ``bevfusion_plugin.ObjectSample``: mmdet3d's keeps a
    place in its list of objects from sample to sample.
    """

    def before_run(self, runner: Runner) -> None:
        """Let the loader seed its samples, if its sampler tells the epoch; before its workers start."""
        if isinstance(runner._train_loop, BaseLoop) and isinstance(runner.train_dataloader.sampler, SeekableSampler):
            seed_samples(runner.train_dataloader, runner.seed)

    def before_train_epoch(self, runner: Runner) -> None:
        """Seed the epoch, and where samples are not seeded one by one the loader's workers."""
        seed_step(runner)
        loader = runner.train_dataloader
        if isinstance(loader.sampler, SeekableSampler):
            return
        if isinstance(loader.worker_init_fn, partial) and 'seed' in loader.worker_init_fn.keywords:  # MMEngine's own
            seed = derived_seed(runner.seed, runner.epoch, runner.rank) % 2**31
            loader.worker_init_fn = partial(loader.worker_init_fn, seed=seed)
            loader._iterator = None  # persistent workers would keep their states

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Seed the step."""
        seed_step(runner)


def seed_step(runner: Runner) -> None:
    """Seed all generators of this process, also the GPU's, from the run's seed, the rank and the iteration."""
    seed = derived_seed(runner.seed, runner.rank, runner.iter)
    seed_cpu(seed)
    torch.manual_seed(seed)
