"""Tiny models and stock Runners that the engine's tests train for a few iterations."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any
from collections.abc import Callable

import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset

FEATURES = 3
TOY_CONFIG = """
default_scope = 'mmengine'
model = dict(type='toy_training.ToyModel')
train_dataloader = dict(batch_size=2, num_workers=0, collate_fn=dict(type='default_collate'),
                        dataset=dict(type='toy_training.ToyData'), sampler=dict(type='DefaultSampler', shuffle=True))
"""  # what to train, for a config file that says how
RUNS = itertools.count()  # MMEngine hands out its logger and message hub by experiment name and second


class ToyData(Dataset):
    """``length`` seeded pairs (x, y); ``marks`` maps a sample's index to a value that replaces all of its x."""

    METAINFO = dict(classes=('car', 'bus'))

    def __init__(self, length: int = 16, dtype: torch.dtype = torch.float64, marks: dict[int, float] | None = None):
        generator = torch.Generator().manual_seed(7)
        self.x = torch.randn(length, FEATURES, generator=generator, dtype=torch.float64)
        self.y = (self.x.sum(1, keepdim=True) + 0.1 * torch.randn(length, 1, generator=generator, dtype=torch.float64)).to(dtype)
        for index, value in (marks or {}).items():
            self.x[index] = value
        self.x = self.x.to(dtype)

    @property
    def metainfo(self) -> dict:
        return dict(self.METAINFO)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> dict:
        return dict(x=self.x[index], y=self.y[index])


def layer_norm_net() -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, 5), nn.LayerNorm(5), nn.Tanh(), nn.Linear(5, 1))


def batch_norm_net() -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 1))


def linear_net() -> nn.Module:
    return nn.Linear(FEATURES, 1)


class ToyModel(BaseModel):
    """Mean squared error of a small seeded net."""

    def __init__(self, make_net: Callable[[], nn.Module] = layer_norm_net, dtype: torch.dtype = torch.float64):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            self.net = make_net().to(dtype)

    def forward(self, x: torch.Tensor, y: torch.Tensor, mode: str = 'loss') -> Any:
        difference = self.net(x) - y
        return dict(loss_fit=difference.square().mean()) if mode == 'loss' else difference


OPTIM_WRAPPER = dict(type='bevfusion_plugin.AccumulativeAmpOptimWrapper', dtype='float32', optimizer=dict(type='SGD', lr=0.1, momentum=0.9))


def toy_loader(dataset: Any, batch_size: int = 2, sampler: dict | None = None, **settings: Any) -> dict:
    """Config of a loader that loads in the process itself, in order unless ``sampler`` is given."""
    return dict(
        batch_size=batch_size,
        num_workers=0,
        dataset=dataset,
        collate_fn=dict(type='default_collate'),
        sampler=sampler or dict(type='DefaultSampler', shuffle=False),
        **settings,
    )


def validation_loader() -> dict:
    """Config of a loader of two batches of two."""
    return toy_loader(ToyData(4))


def toy_config(work_dir: Path, **overrides: Any) -> dict:
    """Arguments of a Runner: 8 micro-batches of 2 samples an epoch, 2 epochs, unshuffled, quiet."""
    config = dict(
        work_dir=str(work_dir),
        experiment_name=f'toy_{next(RUNS)}',
        log_level='ERROR',
        default_scope='mmengine',
        train_dataloader=toy_loader(ToyData()),
        train_cfg=dict(by_epoch=True, max_epochs=2),
        optim_wrapper=copy.deepcopy(OPTIM_WRAPPER),
        default_hooks=dict(checkpoint=None),
        randomness=dict(seed=0),
    )
    config.update(overrides)
    return config


def toy_runner(work_dir: Path, model: nn.Module | None = None, **overrides: Any) -> Runner:
    """A stock Runner over :class:`ToyModel`; ``cfg`` is what it was built from, as ``Runner.from_cfg`` would set it."""
    config = toy_config(work_dir, **overrides)
    shown = Config(
        {
            key: config[key]
            for key in ('optim_wrapper', 'param_scheduler', 'auto_scale_lr', 'train_cfg')
            if type(config.get(key)) in (dict, list)
        },  # what a checkpoint stores as text: no objects
        format_python_code=False,
    )  # formatting it takes longer than the training
    return Runner(model=ToyModel() if model is None else model, cfg=shown, **config)


def logged(runner: Runner) -> str:
    """The Runner's text log, of its level and above; MMEngine's logger hands nothing on to pytest's."""
    return ''.join(path.read_text() for path in Path(runner.log_dir).glob('*.log'))
