import json
import math
import re

import pytest
import torch
from mmengine.hooks import Hook
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from toy_training import ToyData, ToyModel, linear_net, logged, toy_runner, toy_loader

HOOKS = [dict(type='bevfusion_plugin.AutoScaleLRHook'), dict(type='bevfusion_plugin.TrainingMonitorHook')]
OWN = ('update', 'total_batch', 'samples_per_sec', 'skipped_updates', 'clipped_share', 'beta1')
SCHEDULER = dict(type='bevfusion_plugin.OneCycleParamScheduler', moms=(0.9, 0.8), convert_to_iter_based=True)


def monitored(folder, data=None, model=None, hooks=HOOKS, wrapper=None, **overrides):
    """Two epochs of 8 micro-batches in windows of 3, logged every micro-batch to a file and to TensorBoard."""
    settings = dict(
        train_dataloader=toy_loader(data or ToyData(dtype=torch.float32)),
        optim_wrapper=dict(
            dict(
                type='bevfusion_plugin.AccumulativeAmpOptimWrapper',
                accumulative_counts=3,
                dtype='float32',
                clip_grad=dict(max_norm=1e-6),
                optimizer=dict(type='AdamW', lr=1e-3),
            ),
            **(wrapper or {}),
        ),
        param_scheduler=SCHEDULER,
        custom_hooks=list(hooks),
        log_level='INFO',
        default_hooks=dict(checkpoint=None, logger=dict(type='LoggerHook', interval=1)),
        visualizer=dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]),
    )
    runner = toy_runner(folder, model or ToyModel(linear_net, torch.float32), **{**settings, **overrides})
    runner.train()
    return runner


def history(runner, name):
    return list(runner.message_hub.get_scalar(f'train/{name}').data[0])


def test_an_update_is_logged_once_and_nothing_for_micro_batches_without_one(tmp_path):
    runner = monitored(tmp_path)
    assert history(runner, 'update') == [0, 1, 2, 3, 4, 5, 6]  # 0: where it starts
    assert history(runner, 'total_batch') == [6, 6, 6, 4, 6, 6, 4]
    assert history(runner, 'skipped_updates') == [0] * 7
    assert len(history(runner, 'grad_norm')) == len(history(runner, 'samples_per_sec')) == 6
    assert history(runner, 'clipped_share') == [1] * 6
    assert min(history(runner, 'grad_norm')) > 1e-6, 'the norm before clipping'
    assert 'train/loss_scale' not in runner.message_hub.log_scalars


def test_lr_and_beta1_are_those_the_update_used(tmp_path):
    used = []

    class Recorder(Hook):
        priority = 'VERY_HIGH'

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if runner.optim_wrapper.should_update():
                used.append(runner.optim_wrapper.optimizer.param_groups[0]['betas'][0])

    runner = monitored(tmp_path, hooks=[*HOOKS, Recorder()])
    assert history(runner, 'beta1')[1:] == used
    assert len(set(used)) > 1


def test_every_line_of_the_log_shows_the_last_update(tmp_path):
    runner = monitored(tmp_path)
    lines = [line for line in logged(runner).splitlines() if 'Epoch(train)' in line]
    assert len(lines) == 16
    for line in lines:
        for name in ('lr', 'update', 'total_batch', 'skipped_updates', 'beta1'):
            assert re.search(rf'\b{name}: [0-9.e+-]+', line), (name, line)
    for line in lines[2:]:
        for name in ('samples_per_sec', 'grad_norm', 'clipped_share'):
            assert f'{name}: ' in line


def test_it_reaches_every_visualisation_backend(tmp_path):
    runner = monitored(tmp_path)
    folder = next(tmp_path.glob('*/vis_data'))
    events = EventAccumulator(str(folder)).Reload()
    assert [round(event.value) for event in events.Scalars('update')][-1] == 6
    assert {event.step for event in events.Scalars('beta1')} == set(range(1, 17))
    for name in (*OWN, 'grad_norm', 'lr'):
        assert name in events.Tags()['scalars']
    rows = [json.loads(line) for line in (folder / 'scalars.json').read_text().splitlines()]
    assert rows[-1]['update'] == 6 and set(OWN) <= set(rows[-1])
    assert runner.optim_wrapper.updates == 6


def test_loss_scale_and_skips_are_logged_as_they_are_and_no_norm_is_infinite(tmp_path):
    data = ToyData(dtype=torch.float32, marks={0: math.inf})
    runner = monitored(tmp_path, data, wrapper=dict(dtype='float16', loss_scale=dict(init_scale=4.0)))
    assert history(runner, 'skipped_updates') == [0, 1, 1, 1, 2, 2, 2]
    assert history(runner, 'update') == [0, 1, 2, 3, 4]
    assert history(runner, 'loss_scale') == [4, 4, 2, 2, 2, 1, 1], 'what each window was scaled by'
    assert all(map(math.isfinite, history(runner, 'grad_norm')))
    lines = [line for line in logged(runner).splitlines() if 'Epoch(train)' in line]
    assert 'loss_scale: 1.0000' in lines[-1], 'the present one, not a mean'


def test_groups_that_differ_are_logged_apart(tmp_path):
    class TwoLayers(ToyModel):
        def __init__(self):
            super().__init__(dtype=torch.float32)

    wrapper = dict(paramwise_cfg=dict(custom_keys={'net.0': dict(lr_mult=0.1)}))
    runner = monitored(tmp_path, model=TwoLayers(), wrapper=wrapper)
    small, big = (history(runner, f'group{index}_lr') for index in (0, 2))
    assert small == pytest.approx([0.1 * lr for lr in big])
    names = [name for name in runner.message_hub.log_scalars if name.endswith('_lr') and 'group' in name]
    assert len(names) == 2


def test_the_opening_table_states_plan_lr_and_schedule(tmp_path):
    runner = monitored(
        tmp_path,
        auto_scale_lr=dict(enable=True, base_batch_size=12, rule='linear'),
        param_scheduler=[SCHEDULER, dict(type='LinearMomentum', by_epoch=False, begin=0, end=6)],
    )
    text = logged(runner)
    assert text.count('What an update is:') == 1
    for row in (
        r'ranks +1\n',
        r'samples a rank a micro-batch +2\n',
        r'micro-batches a window +3\n',
        r'total batch +1 x 2 x A3 = 6\n',
        r'base batch +12\n',
        r'rule +linear\n',
        r'LR before -> after +0\.001 -> 0\.0005 \(x 0\.5\)\n',
        r'updates an epoch +3, the last from 2\n',
        r'updates in all +6\n',
        r'OneCycleParamScheduler \(lr\): updates 0 to 6, counts updates\n',
        r'LinearMomentum \(momentum\): updates 0 to 2, counts micro-batches\n',
    ):
        assert re.search(row, text), row


def test_it_works_without_the_scaling_hook_and_reports_mmengines_ratio(tmp_path):
    runner = monitored(tmp_path, hooks=HOOKS[1:], auto_scale_lr=dict(enable=True, base_batch_size=4))
    assert 'LR before -> after' in logged(runner)
    assert '0.001 -> 0.0005 (x 0.5)' in logged(runner)


def test_another_wrapper_is_refused_with_the_mend(tmp_path):
    with pytest.raises(ValueError, match="updates of OptimWrapper; set optim_wrapper.type='bevfusion_plugin"):
        monitored(
            tmp_path,
            wrapper=None,
            hooks=HOOKS[1:],
            optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1)),
            param_scheduler=None,
        )


def test_the_documented_config_trains(tmp_path):
    wrapper = dict(
        type='bevfusion_plugin.AccumulativeAmpOptimWrapper',
        constructor='bevfusion_plugin.OpenPCDetOptimWrapperConstructor',
        optimizer=dict(type='AdamW', lr=2e-4, weight_decay=0.01),
        accumulative_counts=8,
        dtype='float16',
        loss_scale='dynamic',
        clip_grad=dict(max_norm=35, norm_type=2),
    )
    runner = monitored(tmp_path, optim_wrapper=wrapper, auto_scale_lr=dict(enable=False, base_batch_size=32, rule='linear'))
    assert runner.optim_wrapper.updates + runner.optim_wrapper.skipped_updates == 2
    assert 'enable=True would scale it by 0.5 (linear, base batch 32)' in logged(runner)
