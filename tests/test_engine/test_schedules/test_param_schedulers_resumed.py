"""Schedulers saved, restored, and inside a Runner."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mmengine.optim import AmpOptimWrapper, OptimWrapper, OptimWrapperDict
from mmengine.optim.scheduler import CosineAnnealingLR
from mmengine.runner import Runner
from stepped_schedulers import MAKERS, PEAK, make_optimizer, values, walk
from toy_models_openpcdet import ToyOnes, ToyRecorder
from toy_training import toy_loader

from bevfusion_plugin.engine import OneCycleParamScheduler

# Saving and resuming


@pytest.mark.parametrize('name', MAKERS)
@pytest.mark.parametrize('position', range(15))
def test_state_restored_at_any_position_gives_the_same_remaining_values(name, position):
    def make():
        optimizer = make_optimizer(1e-3, 1e-4)
        return optimizer, MAKERS[name](optimizer, end=12)

    optimizer, scheduler = make()
    walk(optimizer, scheduler, steps=position)
    state = scheduler.state_dict()
    restored_optimizer, restored = make()
    restored.load_state_dict(state)
    assert restored.last_step == scheduler.last_step
    assert restored.get_last_value() == [group['lr'] for group in restored_optimizer.param_groups]
    assert walk(restored_optimizer, restored, steps=16 - position) == walk(optimizer, scheduler, steps=16 - position)


def test_state_survives_a_safe_load(tmp_path):
    optimizer, restored_optimizer = make_optimizer(), make_optimizer()
    scheduler = OneCycleParamScheduler(optimizer, end=12, by_epoch=False)
    walk(optimizer, scheduler, steps=5)
    torch.save(scheduler.state_dict(), tmp_path / 'state.pth')
    state = torch.load(tmp_path / 'state.pth', weights_only=True)
    assert state == scheduler.state_dict()
    restored = OneCycleParamScheduler(restored_optimizer, end=12, by_epoch=False)
    restored.load_state_dict(state)
    assert walk(restored_optimizer, restored, steps=8) == walk(optimizer, scheduler, steps=8)


@pytest.mark.parametrize(
    'change',
    [
        dict(end=24),
        dict(pct_start=0.2),
        dict(moms=(0.9, 0.8)),
        dict(eta_max=5e-3),
        dict(div_factor=25),
        dict(final_div_factor=10),
        dict(mom_pct_start=0.7),
    ],
    ids=str,
)
@pytest.mark.parametrize('position', [3, 9])
def test_resuming_with_a_changed_config_follows_the_config_and_says_so(change, position, log):
    old = make_optimizer()
    before = OneCycleParamScheduler(old, end=12, by_epoch=False)
    walk(old, before, steps=position)
    resumed, fresh = make_optimizer(), make_optimizer()
    scheduler = OneCycleParamScheduler(resumed, **{'end': 12, 'by_epoch': False, **change})
    resumed.load_state_dict(old.state_dict())
    scheduler.load_state_dict(before.state_dict())
    expected = walk(fresh, OneCycleParamScheduler(fresh, **{'end': 12, 'by_epoch': False, **change}), steps=30)
    assert walk(resumed, scheduler, steps=30 - position) == expected[position:]
    name = next(iter(change)).replace('eta_max', 'peak_lrs')
    assert f"'{name}'" in log.text and f'from step {position}' in log.text


def test_resuming_the_same_config_logs_nothing(log):
    optimizer = make_optimizer()
    scheduler = OneCycleParamScheduler(optimizer, end=12, by_epoch=False)
    OneCycleParamScheduler(optimizer, end=12, by_epoch=False).load_state_dict(scheduler.state_dict())
    assert log.text == ''


def test_resuming_after_the_new_end_holds_the_new_last_value():
    old, resumed = make_optimizer(), make_optimizer()
    before = OneCycleParamScheduler(old, end=40, by_epoch=False)
    walk(old, before, steps=16)
    scheduler = OneCycleParamScheduler(resumed, end=12, by_epoch=False)
    scheduler.load_state_dict(before.state_dict())
    fresh = make_optimizer()
    assert values(resumed) == walk(fresh, OneCycleParamScheduler(fresh, end=12, by_epoch=False), steps=12)[-1]


def test_resuming_leaves_the_lr_to_a_scheduler_that_took_over():
    def make():
        optimizer = make_optimizer()
        return optimizer, [
            OneCycleParamScheduler(optimizer, total_steps=30, end=10, by_epoch=False),
            CosineAnnealingLR(optimizer, T_max=10, begin=10, end=20, by_epoch=False),
        ]

    optimizer, schedulers = make()
    walk(optimizer, *schedulers, steps=15)
    states = [scheduler.state_dict() for scheduler in schedulers]
    resumed, restored = make()
    resumed.load_state_dict(optimizer.state_dict())
    for scheduler, state in zip(restored, states):
        scheduler.load_state_dict(state)
    assert walk(resumed, *restored, steps=5) == walk(optimizer, *schedulers, steps=5)


def test_position_is_converted_when_an_epoch_has_another_number_of_updates():
    def make(length):
        optimizer = make_optimizer()
        return optimizer, OneCycleParamScheduler.build_iter_from_epoch(optimizer, end=4, epoch_length=length)

    optimizer, scheduler = make(10)
    walk(optimizer, scheduler, steps=20)  # half of the training
    resumed, restored = make(5)
    restored.load_state_dict(scheduler.state_dict())
    fresh, reference = make(5)
    assert walk(resumed, restored, steps=10) == walk(fresh, reference, steps=20)[10:]


def test_the_state_of_a_stock_scheduler_gives_its_position():
    stock, ours, fresh = make_optimizer(), make_optimizer(), make_optimizer()
    before = CosineAnnealingLR(stock, T_max=12, by_epoch=False)
    for _ in range(5):
        stock.step()
        before.step()
    scheduler = OneCycleParamScheduler(ours, end=12, by_epoch=False)
    scheduler.load_state_dict(before.state_dict())
    assert values(ours) == walk(fresh, OneCycleParamScheduler(fresh, end=12, by_epoch=False), steps=6)[5]


# Inside a Runner


def make_runner(work_dir, model=None, **overrides: Any) -> Runner:
    settings = dict(
        model=model or ToyRecorder(),
        work_dir=str(work_dir),
        experiment_name=f'schedule_{id(overrides)}',
        default_scope='mmengine',
        log_level='ERROR',
        default_hooks=dict(logger=None),
        train_dataloader=toy_loader(ToyOnes(10), batch_size=1),
        train_cfg=dict(by_epoch=True, max_epochs=4),
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=PEAK)),
        param_scheduler=dict(type='bevfusion_plugin.OneCycleParamScheduler', convert_to_iter_based=True),
    )
    return Runner(**{**settings, **overrides})


def test_end_defaults_to_the_length_of_the_training(tmp_path):
    runner = make_runner(tmp_path)
    runner.train()
    assert runner.param_schedulers[0].total_steps == 40
    assert runner.model.seen[16] == (PEAK, 0.85)


def test_resumed_run_with_other_max_epochs_follows_the_config(tmp_path):
    first = make_runner(tmp_path / 'first', train_cfg=dict(by_epoch=True, max_epochs=2))
    first.train()
    whole = make_runner(tmp_path / 'whole')
    whole.train()
    resumed = make_runner(tmp_path / 'resumed', load_from=str(tmp_path / 'first/epoch_2.pth'), resume=True)
    resumed.train()
    assert resumed.model.seen == whole.model.seen[20:]


class TwoOptimizers(ToyRecorder):
    """Trains two layers with an optimizer each."""

    def __init__(self):
        super().__init__()
        self.other = torch.nn.Linear(2, 1)

    def train_step(self, data, optim_wrapper):
        for name, layer in (('a', self.fc), ('b', self.other)):
            optim_wrapper[name].update_params(layer(data['x']).square().mean())
        self.seen.append(optim_wrapper.get_lr())
        return dict(loss=torch.zeros(()))


def test_runner_schedules_every_wrapper_of_an_optim_wrapper_dict(tmp_path):
    model = TwoOptimizers()
    wrappers = OptimWrapperDict(
        a=OptimWrapper(torch.optim.AdamW(model.fc.parameters(), lr=PEAK)),
        b=OptimWrapper(torch.optim.SGD(model.other.parameters(), lr=0.1, momentum=0.9)),
    )
    make_runner(tmp_path, model, optim_wrapper=wrappers, default_hooks=dict(logger=None, checkpoint=None)).train()
    assert model.seen[16] == {'a.lr': [PEAK], 'b.lr': [0.1]}
    assert model.seen[0] == {'a.lr': [pytest.approx(PEAK / 10)], 'b.lr': [pytest.approx(0.01)]}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU: AmpOptimWrapper takes no CPU')
def test_schedule_goes_on_when_the_scaler_skips_updates():
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(1, device='cuda'))], lr=PEAK)
    wrapper = AmpOptimWrapper(optimizer=optimizer)
    scheduler = OneCycleParamScheduler(wrapper, end=10, by_epoch=False)
    parameter = optimizer.param_groups[0]['params'][0]
    for _ in range(4):
        wrapper.update_params((parameter * float('inf')).sum())
        scheduler.step()
    assert wrapper.get_lr()['lr'] == [PEAK]
    assert parameter.item() == 1


@pytest.mark.parametrize('end, warns', [(None, True), (3, False)])
def test_an_end_that_runner_filled_in_with_micro_batches_is_reported(end, warns, tmp_path, caplog):
    scheduler = dict(type='bevfusion_plugin.OneCycleParamScheduler', by_epoch=False, **({} if end is None else dict(end=end)))
    runner = make_runner(
        tmp_path,
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=10),
        param_scheduler=scheduler,
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=PEAK), accumulative_counts=4),
        log_level='WARNING',
    )
    runner.logger.addHandler(caplog.handler)
    runner.train()
    assert ('end=10 is the number of micro-batches; set end to 3' in caplog.text) == warns
