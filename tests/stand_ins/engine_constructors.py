"""The engine's registered classes for :mod:`constructors`."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from constructors import Case
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn
from toy_training import ToyData, ToyModel, toy_runner, toy_loader

from bevfusion_plugin.engine.hooks.gradient_noise_scale_hook import GradientNoiseScaleHook
from bevfusion_plugin.registry import DATA_SAMPLERS, HOOKS, OPTIM_WRAPPER_CONSTRUCTORS, PARAM_SCHEDULERS


def sgd(lr: float = 0.1) -> torch.optim.Optimizer:
    optimizer = torch.optim.SGD(nn.Linear(2, 1).parameters(), lr=lr, momentum=0.9)
    optimizer.param_groups[0]['initial_lr'] = lr  # as in a training that goes on: last_step asks for it
    return optimizer


def train_three(wrapper: OptimWrapper, folder: Path) -> None:
    """Three updates, or as many micro-batches as three of two."""
    model = nn.Module()
    groups = wrapper.optimizer.param_groups
    model.weights = nn.ParameterList([parameter for group in groups for parameter in group['params']])
    for _ in range(6):
        with wrapper.optim_context(model):
            loss = sum((weight - 1).square().sum() for weight in model.weights)
        wrapper.update_params(loss)


def build_wrapper(settings: dict) -> OptimWrapper:
    return OPTIM_WRAPPERS.build(dict(type='bevfusion_plugin.AccumulativeAmpOptimWrapper', optimizer=sgd(), **settings))


def build_by_constructor(settings: dict) -> OptimWrapper:
    constructor = OPTIM_WRAPPER_CONSTRUCTORS.build(dict(type='bevfusion_plugin.OpenPCDetOptimWrapperConstructor', **settings))
    return constructor(nn.Linear(2, 1))


def step_three(scheduler: Any, folder: Path) -> None:
    for _ in range(3):
        scheduler.optimizer.step()
        scheduler.step()


def iterate_three(sampler: Any, folder: Path) -> None:
    for epoch in range(3):
        sampler.set_epoch(epoch)
        assert len(list(sampler)) == len(sampler)


def run_hook(hook: Any, folder: Path) -> None:
    """A training of three updates with the hook."""
    data = ToyData(length=6, dtype=torch.float32)
    data.pipeline = SimpleNamespace(transforms=[SimpleNamespace(disabled=False)])
    loader = toy_loader(data)
    steps = 3 if isinstance(hook, GradientNoiseScaleHook) else 1  # it reads windows of several micro-batches
    wrapper = dict(
        type='bevfusion_plugin.AccumulativeAmpOptimWrapper',
        dtype='float32',
        accumulative_counts=steps,
        optimizer=dict(type='SGD', lr=0.1, momentum=0.9),
    )
    toy_runner(
        folder,
        ToyModel(dtype=torch.float32),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        train_dataloader=loader,
        optim_wrapper=wrapper,
        auto_scale_lr=dict(enable=False, base_batch_size=2),
        custom_hooks=[dict(type='bevfusion_plugin.WindowHook'), hook],
    ).train()


def of(registry: Any, name: str, settings: dict, use: Any, **fixed: Any) -> Case:
    def build(odd: dict) -> Any:
        optimizer = dict(optimizer=sgd()) if registry is PARAM_SCHEDULERS else {}
        return registry.build(dict(type=f'bevfusion_plugin.{name}', **odd, **optimizer, **fixed))

    return Case(settings, build, use)


SPAN = dict(begin=0, end=6, last_step=-1, by_epoch=False, verbose=False)
ENGINE = dict(
    AccumulativeAmpOptimWrapper=Case(
        dict(
            accumulative_counts=2,
            clip_grad=dict(max_norm=35.0, norm_type=2),
            total_batch_size=8,
            flush='epoch',
            weight_by='micro_batch',
            dtype='float32',
            loss_scale=dict(init_scale=512.0, growth_factor=2.0, backoff_factor=0.5, growth_interval=100),
            reset_scaler_every_epoch=False,
            bn_momentum_correction=False,
            max_bad_windows=10,
        ),
        build_wrapper,
        train_three,
    ),
    ClippedByValue=Case(dict(clip_grad=dict(type='value', clip_value=1.0)), build_wrapper, train_three),
    OpenPCDetOptimWrapperConstructor=Case(
        dict(
            optim_wrapper_cfg=dict(
                type='bevfusion_plugin.AccumulativeAmpOptimWrapper',
                dtype='float32',
                optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.01, betas=[0.9, 0.99]),
            ),
            paramwise_cfg=dict(
                leaf_modules_only=False, bn_wd=True, decay_unused=False, custom_keys=dict(bias=dict(lr_mult=0.1, decay_mult=0.0))
            ),
        ),
        build_by_constructor,
        train_three,
    ),
    OneCycleParamScheduler=of(
        PARAM_SCHEDULERS,
        'OneCycleParamScheduler',
        dict(
            moms=[0.95, 0.85], pct_start=0.4, mom_pct_start=0.4, div_factor=10.0, final_div_factor=1e4, eta_max=0.1, total_steps=6, **SPAN
        ),
        step_three,
    ),
    CosineAnnealingParamScheduler=of(
        PARAM_SCHEDULERS,
        'CosineAnnealingParamScheduler',
        dict(warmup_iters=2, num_epochs=3, moms=[0.95, 0.85], pct_start=0.4, total_steps=6, **SPAN),
        step_three,
    ),
    StepDecayLR=of(PARAM_SCHEDULERS, 'StepDecayLR', dict(milestones=[2, 4], gamma=0.1, eta_min=1e-7, **SPAN), step_three),
    CosineWarmupLR=of(PARAM_SCHEDULERS, 'CosineWarmupLR', dict(div_factor=10.0, total_steps=6, **SPAN), step_three),
    SeekableSampler=of(DATA_SAMPLERS, 'SeekableSampler', dict(shuffle=True, seed=0, total_batch_size=4), iterate_three, dataset=range(10)),
    AutoScaleLRHook=of(HOOKS, 'AutoScaleLRHook', dict(enable=False), run_hook),
    CheckpointHook=of(
        HOOKS,
        'CheckpointHook',
        dict(
            interval=1,
            by_epoch=True,
            save_optimizer=True,
            save_param_scheduler=True,
            max_keep_ckpts=2,
            save_last=True,
            save_begin=0,
            save_every=1.5,
        ),
        run_hook,
    ),
    CheckpointMatchHook=of(HOOKS, 'CheckpointMatchHook', dict(min_share=0.9), run_hook),
    DetectionPictureHook=of(HOOKS, 'DetectionPictureHook', dict(out_dir='pictures', score_thr=0.3, max_samples=2), run_hook),
    DisableObjectSampleHook=of(HOOKS, 'DisableObjectSampleHook', dict(disable_after_epoch=15), run_hook),
    DivergenceSentinelHook=of(
        HOOKS,
        'DivergenceSentinelHook',
        dict(
            action='warn',
            loss_ratio=2.0,
            grad_norm_ratio=5.0,
            grad_norm=100.0,
            matched_ious=0.1,
            skipped_share=0.01,
            skipped_after=2000,
            patience=100,
            warmup=500,
        ),
        run_hook,
    ),
    EMAHook=of(
        HOOKS,
        'EMAHook',
        dict(
            ema_type='ExponentialMovingAverage',
            strict_load=False,
            begin_iter=0,
            begin_epoch=0,
            momentum=0.0002,
            interval=1,
            update_buffers=False,
        ),
        run_hook,
    ),
    GradientNoiseScaleHook=of(HOOKS, 'GradientNoiseScaleHook', dict(smoothing=0.995), run_hook),
    LoggerHook=of(
        HOOKS,
        'LoggerHook',
        dict(interval=10, ignore_last=True, interval_exp_name=1000, keep_local=True, log_metric_by_epoch=True),
        run_hook,
    ),
    SkippedSamplesHook=of(HOOKS, 'SkippedSamplesHook', dict(interval=1), run_hook),
    TrainingReportHook=of(HOOKS, 'TrainingReportHook', dict(out='report.html'), run_hook),
)
WITHOUT_ARGUMENTS = {'EpochSeedHook', 'RuntimeInfoHook', 'TrainingMonitorHook', 'WindowHook'}
