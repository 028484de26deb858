"""A Runner that builds everything a learning rate depends on, and no model.

The optimizer, its wrapper, our constructor, LR scaling (MMEngine's and ours) and the schedulers are the ones a Runner would build
from the config. What they act upon is a stand-in: a model of two layers, a data loader that has a length.
"""

from __future__ import annotations

import logging

from mmengine.config import Config
from mmengine.hooks import ParamSchedulerHook
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import OPTIMIZERS, PARAM_SCHEDULERS
from mmengine.runner import BaseLoop, Runner
from torch import nn

from bevfusion_plugin.doctor.reading.config import (
    full_name,
    is_ours,
    mapping,
    max_epochs,
    max_iters,
    optim_wrapper,
    param_schedulers,
    samples_per_gpu,
    scale_hook,
)
from bevfusion_plugin.engine.accumulation.optim_wrapper import AccumulativeAmpOptimWrapper
from bevfusion_plugin.engine.hooks.auto_scale_lr_hook import AutoScaleLRHook

OUR_WRAPPER_SETTINGS = ('accumulative_counts', 'total_batch_size', 'flush')


class ScheduleError(ValueError):
    """The schedule of a config cannot be built or stepped: a training would stop with the same error."""


class _Loop(BaseLoop):
    """The length of a training loop."""

    def __init__(self, batches_per_epoch: int, samples: int | None, epochs: int, iterations: int) -> None:
        self._dataloader = _Loader(batches_per_epoch, samples)
        self.max_epochs, self.max_iters = epochs, iterations

    @property
    def dataloader(self) -> _Loader:
        return self._dataloader

    def run(self) -> None:
        raise NotImplementedError('this loop has a length only')


class _Loader:
    batch_sampler = None

    def __init__(self, length: int, batch_size: int | None) -> None:
        self.length, self.batch_size = length, batch_size

    def __len__(self) -> int:
        return self.length


class ScheduleRunner(Runner):
    """A Runner that has got as far as ``Runner.train`` gets before it loads weights, and no further.

    MMEngine's own methods scale the LR and build the schedulers of it, in the order of ``Runner.train``.
    """

    def __init__(self, cfg: Config, batches_per_epoch: int, gpus: int) -> None:
        epochs = max_epochs(cfg) or 1  # MMEngine's loop over iterations is one epoch
        iterations = max_iters(cfg) or epochs * batches_per_epoch
        self.cfg, self._world_size = cfg, gpus
        self.logger = logging.getLogger(__name__)
        self.auto_scale_lr = cfg.get('auto_scale_lr')
        self._train_dataloader = mapping(cfg.get('train_dataloader'))
        self._train_loop = _Loop(batches_per_epoch, samples_per_gpu(cfg), epochs, iterations)
        self.model = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1))
        self.optim_wrapper = _build_wrapper(cfg, self.model)
        self.message_hub = self.optim_wrapper.message_hub
        self.param_schedulers = cfg.get('param_scheduler')
        self.scale_lr(self.optim_wrapper, self.auto_scale_lr)
        if self.param_schedulers is not None:
            self.param_schedulers = self.build_param_scheduler(self.param_schedulers)
        if scale_hook(cfg):
            AutoScaleLRHook(scale_hook(cfg).get('enable')).before_run(self)
        self.optim_wrapper.in_charge = True  # no Runner runs here that a WindowHook would be asked for
        self.optim_wrapper.initialize_count_status(self.model, 0, iterations)
        self.optim_wrapper.batches_per_epoch = iterations // epochs
        self.optim_wrapper._global_step = 0  # schedulers would warn that no update came before their first step


def _build_wrapper(cfg: Config, model: nn.Module) -> OptimWrapper:
    """The wrapper with the config's optimizer. MMEngine's AMP wrapper wants a GPU and counts as its plain one does."""
    settings = optim_wrapper(cfg)
    wrapper = dict(
        type=OptimWrapper, optimizer=mapping(settings.get('optimizer')), accumulative_counts=settings.get('accumulative_counts', 1)
    )
    if is_ours(settings):
        wrapper.update(
            {name: settings[name] for name in OUR_WRAPPER_SETTINGS if name in settings}, dtype='float32', type=AccumulativeAmpOptimWrapper
        )
    constructor = mapping(cfg.get('optim_wrapper')).get('constructor')
    if is_ours(dict(type=constructor)):
        wrapper['constructor'] = constructor
    return build_optim_wrapper(model, wrapper)


def scheduler_hook(cfg: Config) -> ParamSchedulerHook | None:
    """The hook that steps the schedulers; None where the config takes it out, so that nothing does.

    Raises:
        ScheduleError: If a hook of another kind moves the learning rate.
    """
    setting = mapping(cfg.get('default_hooks')).get('param_scheduler', {})
    name = full_name(setting) or 'ParamSchedulerHook'
    if name.rpartition('.')[2] != 'ParamSchedulerHook':
        raise ScheduleError(f'{name} moves the learning rate instead of schedulers; only ParamSchedulerHook can be followed')
    return None if setting is None else ParamSchedulerHook()


def needed_scope(cfg: Config) -> str | None:
    """``default_scope`` if a name is not MMEngine's own; asking a scope imports its package, which takes seconds."""
    names = [(OPTIMIZERS, full_name(optim_wrapper(cfg).get('optimizer')))]
    names += [(PARAM_SCHEDULERS, full_name(scheduler)) for scheduler in param_schedulers(cfg)]
    known = all(name in registry.module_dict or '.' in name for registry, name in names)
    return None if known else cfg.get('default_scope')
