"""The trace against real Runners that train a toy model, and what it says about itself."""

import logging
import math
import sys
import time

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.hooks import Hook
from toy_training import ToyData, toy_runner, toy_loader

from bevfusion_plugin.doctor.schedule_trace import ScheduleError, ScheduleTrace, trace_schedule

SAMPLES, BATCHES = 14, 7  # two samples a micro-batch; 7 micro-batches are no whole number of windows of 2
ADAMW = dict(type='AdamW', lr=1e-3, betas=(0.9, 0.999))
STOCK = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=5),
    dict(type='CosineAnnealingLR', begin=0, T_max=3, end=3, by_epoch=True, eta_min_ratio=1e-2, convert_to_iter_based=True),
    dict(type='CosineAnnealingMomentum', eta_min=0.8, begin=0, end=1, by_epoch=True, convert_to_iter_based=True),
    dict(type='CosineAnnealingMomentum', eta_min=0.9, begin=1, end=3, by_epoch=True, convert_to_iter_based=True),
]
ABSOLUTE = [
    dict(type='CosineAnnealingLR', T_max=1, eta_min=1e-2, begin=0, end=1, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', T_max=2, eta_min=1e-5, begin=1, end=3, convert_to_iter_based=True),
]
ONE_CYCLE = [dict(type='bevfusion_plugin.OneCycleParamScheduler', moms=(0.9, 0.8), end=3, convert_to_iter_based=True)]
STAIRCASE = [dict(type='bevfusion_plugin.CosineAnnealingParamScheduler', warmup_iters=3, end=3, convert_to_iter_based=True)]
MILESTONES = [dict(type='MultiStepLR', milestones=[1, 2], by_epoch=True)]
BY_EPOCH = dict(by_epoch=True, convert_to_iter_based=True)
SCALE_HOOK = dict(type='bevfusion_plugin.AutoScaleLRHook')


def stock_wrapper(optimizer=ADAMW, **settings):
    return dict(type='OptimWrapper', optimizer=dict(optimizer), **settings)


def our_wrapper(optimizer=ADAMW, **settings):
    return dict(
        type='bevfusion_plugin.AccumulativeAmpOptimWrapper',
        dtype='float32',
        optimizer=dict(optimizer),
        constructor='bevfusion_plugin.OpenPCDetOptimWrapperConstructor',
        **settings,
    )


class StepRecorder(Hook):
    """Learning rate and momentum that the optimizer itself had in each of its steps."""

    def before_train(self, runner):
        self.steps = []
        runner.optim_wrapper.optimizer.register_step_pre_hook(self.record)

    def record(self, optimizer, *_):
        group = optimizer.param_groups[0]
        self.steps.append((group['lr'], group['betas'][0] if 'betas' in group else group['momentum']))


def real_and_traced(tmp_path, **config):
    """(lr, momentum) of every step of a real training, and the trace of the same config."""
    config.setdefault('train_cfg', dict(by_epoch=True, max_epochs=3))
    shared = {key: config[key] for key in config if key != 'custom_hooks'}
    recorder = StepRecorder()
    loader = toy_loader(ToyData(SAMPLES))
    toy_runner(tmp_path, train_dataloader=loader, custom_hooks=[recorder, *config.get('custom_hooks', [])], **shared).train()
    cfg = Config(dict(train_dataloader=dict(batch_size=2), **config), format_python_code=False)
    return np.array(recorder.steps), trace_schedule(cfg, BATCHES)


@pytest.mark.parametrize(
    'config',
    [
        dict(optim_wrapper=stock_wrapper(), param_scheduler=STOCK),
        dict(optim_wrapper=stock_wrapper(accumulative_counts=2), param_scheduler=STOCK),
        dict(optim_wrapper=our_wrapper(accumulative_counts=2), param_scheduler=STOCK),
        dict(optim_wrapper=our_wrapper(accumulative_counts=2), param_scheduler=ONE_CYCLE),
        dict(optim_wrapper=our_wrapper(accumulative_counts=2, flush='train'), param_scheduler=ONE_CYCLE),
        dict(optim_wrapper=our_wrapper(accumulative_counts=3), param_scheduler=STAIRCASE),
        dict(optim_wrapper=stock_wrapper(dict(type='SGD', lr=0.1, momentum=0.9), accumulative_counts=2), param_scheduler=MILESTONES),
        dict(
            optim_wrapper=stock_wrapper(accumulative_counts=2),
            param_scheduler=dict(type='PolyLR', eta_min=1e-5, by_epoch=False),
            train_cfg=dict(by_epoch=False, max_iters=17),
        ),
        dict(
            optim_wrapper=our_wrapper(accumulative_counts=2),
            train_cfg=dict(by_epoch=False, max_iters=17),
            param_scheduler=[dict(type='bevfusion_plugin.OneCycleParamScheduler', by_epoch=False, end=9)],
        ),
        dict(optim_wrapper=our_wrapper(dict(type='SGD', lr=0.1, momentum=0.9)), param_scheduler=ONE_CYCLE),
        dict(optim_wrapper=stock_wrapper()),
        dict(
            optim_wrapper=stock_wrapper(accumulative_counts=2),
            param_scheduler=ABSOLUTE,
            auto_scale_lr=dict(enable=True, base_batch_size=16),
        ),
        dict(
            optim_wrapper=stock_wrapper(accumulative_counts=2),
            param_scheduler=ABSOLUTE,
            custom_hooks=[SCALE_HOOK],
            auto_scale_lr=dict(enable=True, base_batch_size=16),
        ),
        dict(
            optim_wrapper=our_wrapper(accumulative_counts=2),
            param_scheduler=ONE_CYCLE,
            custom_hooks=[SCALE_HOOK],
            auto_scale_lr=dict(enable=True, base_batch_size=16, rule='sqrt'),
        ),
        dict(
            optim_wrapper=our_wrapper(accumulative_counts='auto', total_batch_size=6), param_scheduler=ONE_CYCLE, custom_hooks=[SCALE_HOOK]
        ),
    ],
    ids=[
        'stock',
        'stock-accumulated',
        'stock-in-our-wrapper',
        'one-cycle',
        'one-cycle-flush-train',
        'staircase',
        'sgd-by-epoch',
        'iterations',
        'iterations-one-cycle',
        'sgd-one-cycle',
        'constant',
        'stock-scaling',
        'our-scaling',
        'our-sqrt-scaling',
        'auto',
    ],
)
@pytest.mark.filterwarnings('ignore:Detected call of `scheduler.step')  # MMEngine's false alarm when accumulating
def test_the_trace_is_what_the_optimizer_of_a_real_training_used(tmp_path, config):
    real, trace = real_and_traced(tmp_path, **config)
    assert trace.updates == len(real)
    np.testing.assert_allclose(trace.lr, real[:, 0], rtol=1e-12)
    np.testing.assert_allclose(trace.momentum, real[:, 1], rtol=1e-12)


def reference(accumulative_counts=1, **changes):
    """mmdetection3d's BEVFusion recipe, lidar + camera, as far as learning rates go."""
    return Config(
        dict(
            optim_wrapper=dict(
                type='AmpOptimWrapper',
                optimizer=dict(type='AdamW', lr=2e-4, weight_decay=0.01),
                loss_scale='dynamic',
                accumulative_counts=accumulative_counts,
            ),
            param_scheduler=[
                dict(type='LinearLR', start_factor=0.33333333, by_epoch=False, begin=0, end=500),
                dict(type='CosineAnnealingLR', begin=0, T_max=6, end=6, eta_min_ratio=1e-4, **BY_EPOCH),
                dict(type='CosineAnnealingMomentum', eta_min=0.85 / 0.95, begin=0, end=2.4, **BY_EPOCH),
                dict(type='CosineAnnealingMomentum', eta_min=1, begin=2.4, end=6, **BY_EPOCH),
            ],
            train_cfg=dict(by_epoch=True, max_epochs=6),
            train_dataloader=dict(batch_size=4),
            default_scope='mmdet3d',
        )
        | changes
    )


def test_the_reference_recipe_ends_with_beta1_at_one_and_its_warm_up_at_500():
    trace = trace_schedule(reference(), 3862, gpus=8)
    assert (trace.updates, trace.updates_per_epoch, trace.epochs) == (23_172, 3862, 6)
    assert list(trace.epoch_ends) == [3862 * epoch for epoch in range(1, 7)]
    assert trace.lr[0] == pytest.approx(2e-4 / 3) and trace.lr[-1] == pytest.approx(2e-8, rel=1e-3)
    assert trace.warmup_end == trace.peak == 499
    assert trace.beta1.min() == pytest.approx(0.8947, abs=1e-4) and trace.beta1[-1] == pytest.approx(1, abs=1e-8)
    assert [(span.param, span.begin, span.end, span.counts) for span in trace.spans][1:3] == [
        ('lr', 0, 23_172, 'micro-batches'),
        ('momentum', 0, 9268, 'micro-batches'),
    ]


def test_a_stock_warm_up_of_500_micro_batches_is_63_updates_of_8():
    trace = trace_schedule(reference(accumulative_counts=8), 800, gpus=4)
    assert trace.spans[0].end == 63 and trace.warmup_end == 62
    assert trace.accumulative_counts == 8 and trace.updates_per_epoch == 100


def test_the_longest_recipe_is_traced_in_seconds():
    start = time.process_time()
    trace = trace_schedule(reference(accumulative_counts=8), 3862 * 8, gpus=4)
    assert trace.updates == 23_172
    assert time.process_time() - start < 10


def test_the_config_is_left_as_it_was_and_nothing_is_printed(capsys):
    cfg = reference(accumulative_counts=2, auto_scale_lr=dict(enable=True, base_batch_size=32), custom_hooks=[SCALE_HOOK])
    before, disabled = cfg.to_dict(), logging.root.manager.disable
    trace_schedule(cfg, 10, gpus=2)
    assert cfg.to_dict() == before and logging.root.manager.disable == disabled
    assert capsys.readouterr().out == ''


def test_ranks_count_where_the_learning_rate_is_scaled():
    cfg = reference(auto_scale_lr=dict(enable=True, base_batch_size=32))
    one, eight = trace_schedule(cfg, 200, gpus=1), trace_schedule(cfg, 200, gpus=8)
    np.testing.assert_allclose(eight.lr, 8 * one.lr)


@pytest.mark.parametrize(
    'changes',
    [
        dict(train_cfg=None),
        dict(optim_wrapper=None),
        dict(optim_wrapper=['OptimWrapper']),
        dict(optim_wrapper=dict(a=dict(optimizer=ADAMW), b=dict(optimizer=ADAMW), constructor='X')),
    ],
)
def test_what_trains_nothing_or_with_several_optimizers_has_no_trace(changes):
    assert trace_schedule(reference(**changes), 10) is None


@pytest.mark.parametrize(
    'changes, message',
    [
        (dict(param_scheduler=[dict(type='NoSuchLR')]), 'NoSuchLR'),
        (dict(param_scheduler=[dict(type='LinearLR', begin=5, end=3)]), 'end should be larger than begin'),
        (dict(param_scheduler=[dict(type='OneCycleLR', eta_max=1e-3, total_steps=20, by_epoch=False)]), 'Tried to step 22 times'),
        (dict(param_scheduler=['LinearLR']), 'scheduler should be a _ParamScheduler'),
        (dict(optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-3, learning=1))), "unexpected keyword argument 'learning'"),
        (dict(optim_wrapper=our_wrapper(accumulative_counts='auto', total_batch_size=8)), 'add dict.*AutoScaleLRHook'),
        (dict(auto_scale_lr=dict(enable=True)), 'base_batch_size'),
        (dict(default_hooks=dict(param_scheduler=dict(type='YOLOv5ParamSchedulerHook'))), 'YOLOv5ParamSchedulerHook moves'),
    ],
)
def test_what_cannot_be_built_or_stepped_says_why(changes, message):
    with pytest.raises(ScheduleError, match=message):
        trace_schedule(reference(**{'default_scope': 'mmengine', **changes}), 10)


def test_without_the_hook_that_steps_them_schedulers_stand_still():
    trace = trace_schedule(reference(default_hooks=dict(param_scheduler=None)), 10)
    assert np.ptp(trace.lr) == 0 and trace.lr[0] == pytest.approx(2e-4 / 3)


def test_an_epoch_without_micro_batches_is_refused():
    with pytest.raises(ValueError, match='batches_per_epoch must be >= 1, got 0'):
        trace_schedule(reference(), 0)


def test_common_names_do_not_import_the_package_of_their_scope(monkeypatch):
    monkeypatch.setitem(sys.modules, 'mmdet3d', None)
    assert trace_schedule(reference(), 10).updates == 60


@pytest.mark.parametrize(
    'lr, warmup_end, peak',
    [
        ([1, 2, 3, 2, 1], 2, 2),
        ([3, 2, 1], 0, 0),
        ([1, 1, 1], 0, 0),
        ([1, 1, 3, 3, 2, 1], 2, 2),
        ([1, 2, 3], 2, 2),
        ([1, 2, 1, 5, 1], 1, 3),
        ([2, 2 * (1 + 1e-12), 1], 0, 0),
    ],
)
def test_the_warm_up_ends_where_the_rate_first_stops_rising(lr, warmup_end, peak):
    trace = ScheduleTrace(np.array(lr, dtype=float), None, None, np.array([len(lr)]), 1, len(lr), 1, ())
    assert (trace.warmup_end, trace.peak) == (warmup_end, peak)
    assert trace.beta1 is None and not math.isnan(trace.summary()['end_lr']) and 'min_momentum' not in trace.summary()
