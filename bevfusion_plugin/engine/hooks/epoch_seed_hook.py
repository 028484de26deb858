"""Makes the randomness of an epoch a function of its number, so that a resumed run repeats it."""
from __future__ import annotations

import random
from functools import partial

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from bevfusion_plugin.registry import HOOKS


def epoch_seed(seed: int, epoch: int, rank: int) -> int:
    """A 32-bit seed of its own for every epoch (from 0) and rank."""
    return int(np.random.SeedSequence([seed, epoch, rank]).generate_state(1)[0])


@HOOKS.register_module()
class EpochSeedHook(Hook):
    """Seeds Python, numpy and torch, and the data loader's workers, at the start of each epoch.

    Checkpoints hold no random states, so without this a run resumed after epoch k draws the augmentations of epoch 1 again, and
    data loaders without persistent workers repeat theirs every epoch. Workers are started anew every epoch for it: where objects
    are pasted, take ``bevfusion_plugin.ObjectSample``, as mmdet3d's begins the same list of objects in each new worker.
    """

    def before_train_epoch(self, runner: Runner) -> None:
        """Seed everything from the run's seed, the epoch and the rank."""
        seed = epoch_seed(runner.seed, runner.epoch, runner.rank)
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        loader = runner.train_dataloader
        if isinstance(loader.worker_init_fn, partial) and 'seed' in loader.worker_init_fn.keywords:  # MMEngine's own
            loader.worker_init_fn = partial(loader.worker_init_fn, seed=seed % 2**31)
            loader._iterator = None  # persistent workers would keep their states
