"""Runs with windows, noisy data and dropout: whatever a resume could lose shows in the parameters."""

import random

import numpy as np
import torch
from torch import nn
from toy_training import FEATURES, ToyData, ToyModel, toy_runner

COUNTS = 3
SCHEDULERS = [
    dict(type='CosineAnnealingLR', by_epoch=False, T_max=9, eta_min=1e-3),
    dict(type='LinearMomentum', start_factor=0.5, end=5, by_epoch=False),
]
OURS = [dict(type='bevfusion_plugin.WindowHook'), dict(type='bevfusion_plugin.EpochSeedHook')]
OUR_SCHEDULERS = [dict(type='bevfusion_plugin.OneCycleParamScheduler', by_epoch=False, total_steps=3, end=3)]


def optim_wrapper(accumulative_counts=COUNTS, **kwargs):
    return dict(
        type='bevfusion_plugin.AccumulativeAmpOptimWrapper',
        dtype='float32',
        accumulative_counts=accumulative_counts,
        optimizer=dict(type='AdamW', lr=0.05),
        **kwargs,
    )


class Noisy(ToyData):
    """Samples that are augmented by random numbers of Python and numpy."""

    def __getitem__(self, index):
        sample = super().__getitem__(index)
        return dict(sample, x=sample['x'] + np.random.normal() + random.random())


def dropout_net():
    return nn.Sequential(nn.Linear(FEATURES, 5), nn.Dropout(0.5), nn.Linear(5, 1))


def training(folder, loop, hooks=True, batches=8, schedulers=SCHEDULERS, checkpoint=None, **overrides):
    """Two epochs, by epochs or by iterations, with noise in the data and dropout, that save whenever a window ends."""
    folder.mkdir(exist_ok=True)
    train_cfg = dict(by_epoch=True, max_epochs=2) if loop == 'epochs' else dict(by_epoch=False, max_iters=2 * batches)
    checkpoint = checkpoint or dict(type='bevfusion_plugin.CheckpointHook', interval=1, by_epoch=False)
    settings = dict(
        train_cfg=train_cfg,
        custom_hooks=OURS if hooks else [],
        param_scheduler=schedulers,
        train_dataloader=loader(2 * batches),
        optim_wrapper=optim_wrapper(),
        default_hooks=dict(checkpoint=checkpoint),
    )
    return toy_runner(folder, ToyModel(dropout_net), **{**settings, **overrides})


def loader(samples, batch_size=2, sampler='bevfusion_plugin.SeekableSampler', workers=0, **settings):
    return dict(
        batch_size=batch_size,
        num_workers=workers,
        dataset=Noisy(samples),
        collate_fn=dict(type='default_collate'),
        sampler=dict(type=sampler, shuffle=True, **settings),
    )


def parameters(runner):
    return torch.cat([p.detach().flatten() for p in runner.model.parameters()])
