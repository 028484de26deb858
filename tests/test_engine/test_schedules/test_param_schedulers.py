from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.optim import AmpOptimWrapper, OptimWrapper, OptimWrapperDict
from mmengine.optim.scheduler import CosineAnnealingLR, LinearLR
from mmengine.runner import Runner
from toy_models_openpcdet import ToyOnes, ToyRecorder

from bevfusion_plugin.engine import CosineAnnealingParamScheduler, CosineWarmupLR, OneCycleParamScheduler, StepDecayLR

PEAK = 1e-3


def make_optimizer(*lrs: float, kind: str = 'AdamW', **settings: Any) -> torch.optim.Optimizer:
    groups = [dict(params=[torch.nn.Parameter(torch.ones(1))], lr=lr) for lr in lrs or (PEAK,)]
    return getattr(torch.optim, kind)(groups, lr=PEAK, **settings)


def values(optimizer: torch.optim.Optimizer | OptimWrapper) -> list[tuple]:
    """What the coming update uses, a group an entry."""
    groups = getattr(optimizer, 'optimizer', optimizer).param_groups
    return [(group['lr'], group.get('betas'), group.get('momentum')) for group in groups]


def walk(optimizer, *schedulers, steps: int) -> list[list[tuple]]:
    rows = []
    for _ in range(steps):
        rows.append(values(optimizer))
        for scheduler in schedulers:
            scheduler.step()
    return rows


def lrs(optimizer, *schedulers, steps: int) -> list[float]:
    return [row[0][0] for row in walk(optimizer, *schedulers, steps=steps)]


MAKERS = {
    'one_cycle': lambda optimizer, **span: OneCycleParamScheduler(optimizer, by_epoch=False, **span),
    'cosine_annealing': lambda optimizer, **span: CosineAnnealingParamScheduler(optimizer, warmup_iters=3, num_epochs=4,
                                                                                by_epoch=False, **span),
    'step_decay': lambda optimizer, **span: StepDecayLR(optimizer, [4, 9], by_epoch=False, **span),
    'cosine_warmup': lambda optimizer, **span: CosineWarmupLR(optimizer, by_epoch=False, **span),
}


@pytest.fixture
def log(caplog):
    """Messages of MMEngine's current logger."""
    logger = MMLogger.get_instance('schedules', log_level='INFO')
    MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    caplog.set_level(logging.INFO)
    yield caplog
    logger.removeHandler(caplog.handler)


# The cycle itself


def test_momentum_falls_while_lr_rises_and_beta2_stays():
    optimizer = make_optimizer(betas=(0.9, 0.987))
    rows = [row[0] for row in walk(optimizer, OneCycleParamScheduler(optimizer, end=20, by_epoch=False), steps=20)]
    lr, beta1 = [row[0] for row in rows], [row[1][0] for row in rows]
    assert lr[:9] == sorted(lr[:9]) and lr[8:] == sorted(lr[8:], reverse=True)
    assert beta1[:9] == sorted(beta1[:9], reverse=True) and beta1[8:] == sorted(beta1[8:])
    assert (lr[8], beta1[8]) == (PEAK, 0.85)
    assert {row[1][1] for row in rows} == {0.987}


def test_sgd_moves_its_momentum():
    optimizer = make_optimizer(kind='SGD', momentum=0.9)
    OneCycleParamScheduler(optimizer, end=20, by_epoch=False)
    assert values(optimizer)[0] == (pytest.approx(PEAK / 10), None, 0.95)


def test_moms_none_moves_the_lr_alone():
    optimizer = make_optimizer(betas=(0.9, 0.99))
    rows = walk(optimizer, OneCycleParamScheduler(optimizer, moms=None, end=20, by_epoch=False), steps=20)
    assert {row[0][1] for row in rows} == {(0.9, 0.99)}
    assert len({row[0][0] for row in rows}) > 10


def test_optimizer_without_momentum_works_with_moms_none_and_is_refused_otherwise():
    optimizer = make_optimizer(kind='Adagrad')
    OneCycleParamScheduler(optimizer, moms=None, end=20, by_epoch=False)
    with pytest.raises(ValueError, match='neither betas nor momentum'):
        OneCycleParamScheduler(optimizer, end=20, by_epoch=False)


def test_momentum_may_turn_at_another_share_than_the_lr():
    optimizer = make_optimizer()
    scheduler = OneCycleParamScheduler(optimizer, pct_start=0.1, mom_pct_start=0.4, end=20, by_epoch=False)
    rows = walk(optimizer, scheduler, steps=20)
    assert max(range(20), key=lambda k: rows[k][0][0]) == 2
    assert min(range(20), key=lambda k: rows[k][0][1][0]) == 8


def test_every_group_peaks_at_its_own_lr():
    optimizer = make_optimizer(1e-3, 1e-4)
    rows = walk(optimizer, OneCycleParamScheduler(optimizer, end=10, by_epoch=False), steps=10)
    assert [lr for lr, _, _ in rows[4]] == [1e-3, 1e-4]
    assert all(first[0] == pytest.approx(10 * second[0], rel=1e-12) for first, second in rows)


@pytest.mark.parametrize('eta_max, peaks', [(5e-3, [5e-3, 5e-3]), ([5e-3, 2e-3], [5e-3, 2e-3])])
@pytest.mark.parametrize('wrap', [lambda optimizer: optimizer, OptimWrapper])
def test_eta_max_overrides_the_groups_lr(eta_max, peaks, wrap):
    optimizer = wrap(make_optimizer(1e-3, 1e-4))
    rows = walk(optimizer, OneCycleParamScheduler(optimizer, eta_max=eta_max, end=10, by_epoch=False), steps=10)
    assert [lr for lr, _, _ in rows[4]] == peaks


def test_peaks_scaled_after_building_scale_the_whole_curve():
    optimizer, other = make_optimizer(1e-3, 1e-4), make_optimizer(2e-3, 2e-4)
    scheduler = OneCycleParamScheduler(optimizer, end=10, by_epoch=False)
    scheduler.peak_lrs = [2 * peak for peak in scheduler.peak_lrs]
    expected = walk(other, OneCycleParamScheduler(other, end=10, by_epoch=False), steps=10)
    assert walk(optimizer, scheduler, steps=10)[1:] == expected[1:]


@pytest.mark.parametrize('name', MAKERS)
def test_past_the_end_the_last_values_stay(name):
    optimizer = make_optimizer()
    rows = walk(optimizer, MAKERS[name](optimizer, end=12), steps=20)
    assert rows[12:] == [rows[11]] * 8


def test_total_steps_shorter_than_the_span_holds_the_last_value():
    optimizer = make_optimizer()
    rows = walk(optimizer, OneCycleParamScheduler(optimizer, total_steps=10, end=20, by_epoch=False), steps=20)
    assert rows[10:] == [rows[9]] * 10
    assert rows[8] != rows[9]


# MMEngine's contract


@pytest.mark.parametrize('name', ['one_cycle', 'cosine_annealing', 'cosine_warmup'])
def test_before_begin_nothing_moves_and_the_curve_starts_there(name):
    early, late = make_optimizer(), make_optimizer()
    rows = walk(late, MAKERS[name](late, begin=5, end=17), steps=17)
    assert rows[:5] == [[(PEAK, (0.9, 0.999), None)]] * 5
    assert rows[5:] == walk(early, MAKERS[name](early, end=12), steps=12)


def test_step_decay_counts_milestones_from_the_start_of_training():
    optimizer = make_optimizer()
    assert lrs(optimizer, StepDecayLR(optimizer, [2, 4], begin=3, end=9, by_epoch=False), steps=6) == pytest.approx(
        [PEAK, PEAK, PEAK, PEAK / 10, PEAK / 100, PEAK / 100])


@pytest.mark.parametrize('second', [
    lambda optimizer: CosineAnnealingLR(optimizer, T_max=10, begin=10, end=20, by_epoch=False),
    lambda optimizer: OneCycleParamScheduler(optimizer, begin=10, end=20, by_epoch=False),
])
def test_schedulers_in_a_row_hand_over(second):
    optimizer = make_optimizer()
    first = LinearLR(optimizer, start_factor=0.1, end=10, by_epoch=False)
    rows = lrs(optimizer, first, second(optimizer), steps=20)
    assert rows[:10] == pytest.approx([PEAK * (0.1 + 0.9 * k / 9) for k in range(10)])
    assert max(rows) == pytest.approx(PEAK)
    assert rows[19] < PEAK / 10


def test_by_epoch_without_conversion_steps_once_an_epoch():
    optimizer = make_optimizer()
    scheduler = OneCycleParamScheduler(OptimWrapper(optimizer, accumulative_counts=4), end=10)
    scheduler.optimizer._inner_count = 1  # the epoch ended inside a window
    assert lrs(optimizer, scheduler, steps=10)[4] == PEAK


def test_wrapper_reports_lr_and_momentum_of_the_coming_update():
    wrapper = OptimWrapper(make_optimizer(1e-3, 1e-4))
    scheduler = OneCycleParamScheduler(wrapper, end=10, by_epoch=False)
    for _ in range(4):
        scheduler.step()
    assert wrapper.get_lr() == dict(base_lr=[1e-3], lr=[1e-3, 1e-4])
    assert wrapper.get_momentum() == dict(momentum=[0.85, 0.85])
    assert scheduler.get_last_value() == [1e-3, 1e-4, 1e-3]


def test_last_step_resumes_without_a_state_dict():
    whole, resumed = make_optimizer(), make_optimizer()
    expected = lrs(whole, OneCycleParamScheduler(whole, end=10, by_epoch=False), steps=10)
    resumed.param_groups[0]['initial_lr'] = PEAK
    scheduler = OneCycleParamScheduler(resumed, end=10, last_step=5, by_epoch=False)
    assert lrs(resumed, scheduler, steps=4) == expected[6:]


def test_verbose_prints_every_value(log):
    optimizer = make_optimizer()
    OneCycleParamScheduler(optimizer, end=10, by_epoch=False, verbose=True)
    assert 'group 0 to 1.0000e-04' in log.text


# Updates, not micro-batches


def micro_batches(wrapper: OptimWrapper, scheduler, batches: int) -> list[float]:
    """The LR of every update that ``batches`` micro-batches make."""
    parameter = wrapper.optimizer.param_groups[0]['params'][0]
    used = []
    for _ in range(batches):
        lr = wrapper.get_lr()['lr'][0]
        wrapper.update_params((parameter * 2).sum())
        if wrapper.should_update():
            used.append(lr)
        scheduler.step()
    return used


@pytest.mark.parametrize('accumulative_counts', [1, 2, 3, 5])
def test_update_k_uses_value_k_for_every_accumulation(accumulative_counts):
    plain, accumulated = make_optimizer(), make_optimizer()
    expected = lrs(plain, OneCycleParamScheduler(plain, end=6, by_epoch=False), steps=6)
    wrapper = OptimWrapper(accumulated, accumulative_counts=accumulative_counts)
    batches = 6 * accumulative_counts - (accumulative_counts - 1)  # the last window is short
    wrapper.initialize_count_status(torch.nn.Linear(1, 1), 0, batches)
    scheduler = OneCycleParamScheduler(wrapper, end=6, by_epoch=False)
    assert micro_batches(wrapper, scheduler, batches) == expected


@pytest.mark.parametrize('flush, total', [('train', 8), ('epoch', 9)])
def test_epochs_convert_to_updates(flush, total):
    wrapper = OptimWrapper(make_optimizer(), accumulative_counts=4)
    wrapper.flush = flush  # 3 epochs of 10 micro-batches: ceil(30 / 4) = 8, or 3 * ceil(10 / 4) = 9
    span = dict(begin=1, end=4, epoch_length=10)
    assert OneCycleParamScheduler.build_iter_from_epoch(wrapper, end=3, epoch_length=10).total_steps == total
    cosine = CosineAnnealingParamScheduler.build_iter_from_epoch(wrapper, warmup_iters=2, **span)
    assert (cosine.num_epochs, cosine.warmup_iters, cosine.begin) == (3, 2, 3)
    assert StepDecayLR.build_iter_from_epoch(wrapper, milestones=[2, 1], **span).milestones == [3, 6 if flush == 'epoch' else 5]
    assert CosineWarmupLR.build_iter_from_epoch(wrapper, total_steps=2, **span).total_steps == (6 if flush == 'epoch' else 5)


def test_staircase_keeps_its_epochs_when_windows_straddle_them():
    wrapper = OptimWrapper(make_optimizer(), accumulative_counts=4)
    scheduler = CosineAnnealingParamScheduler.build_iter_from_epoch(wrapper, end=2, epoch_length=10)  # 5 updates, 2.5 an epoch
    assert len(set(lrs(wrapper, scheduler, steps=3))) == 1
    assert len(set(lrs(wrapper, scheduler, steps=2))) == 1
    assert wrapper.get_lr()['lr'][0] == pytest.approx(PEAK * (0.001 + 0.999 / 2))


@pytest.mark.parametrize('end, warns', [(None, True), (3, False)])
def test_an_end_that_runner_filled_in_with_micro_batches_is_reported(end, warns, tmp_path, caplog):
    scheduler = dict(type='bevfusion_plugin.OneCycleParamScheduler', by_epoch=False, **({} if end is None else dict(end=end)))
    runner = make_runner(tmp_path, train_cfg=dict(type='IterBasedTrainLoop', max_iters=10), param_scheduler=scheduler,
                         optim_wrapper=dict(optimizer=dict(type='AdamW', lr=PEAK), accumulative_counts=4), log_level='WARNING')
    runner.logger.addHandler(caplog.handler)
    runner.train()
    assert ('end=10 is the number of micro-batches; set end to 3' in caplog.text) == warns


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


@pytest.mark.parametrize('change', [dict(end=24), dict(pct_start=0.2), dict(moms=(0.9, 0.8)), dict(eta_max=5e-3),
                                    dict(div_factor=25), dict(final_div_factor=10), dict(mom_pct_start=0.7)], ids=str)
@pytest.mark.parametrize('position', [3, 9])
def test_resuming_with_a_changed_config_follows_the_config_and_says_so(change, position, log):
    old = make_optimizer()
    before = OneCycleParamScheduler(old, **{'end': 12, 'by_epoch': False})
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
        return optimizer, [OneCycleParamScheduler(optimizer, total_steps=30, end=10, by_epoch=False),
                           CosineAnnealingLR(optimizer, T_max=10, begin=10, end=20, by_epoch=False)]

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
        model=model or ToyRecorder(), work_dir=str(work_dir), experiment_name=f'schedule_{id(overrides)}',
        default_scope='mmengine', log_level='ERROR', default_hooks=dict(logger=None),
        train_dataloader=dict(batch_size=1, num_workers=0, dataset=ToyOnes(10), collate_fn=dict(type='default_collate'),
                              sampler=dict(type='DefaultSampler', shuffle=False)),
        train_cfg=dict(by_epoch=True, max_epochs=4), optim_wrapper=dict(optimizer=dict(type='AdamW', lr=PEAK)),
        param_scheduler=dict(type='bevfusion_plugin.OneCycleParamScheduler', convert_to_iter_based=True))
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
    wrappers = OptimWrapperDict(a=OptimWrapper(torch.optim.AdamW(model.fc.parameters(), lr=PEAK)),
                                b=OptimWrapper(torch.optim.SGD(model.other.parameters(), lr=0.1, momentum=0.9)))
    make_runner(tmp_path, model, optim_wrapper=wrappers, default_hooks=dict(logger=None, checkpoint=None)).train()
    assert model.seen[16] == {'a.lr': [PEAK], 'b.lr': [0.1]}
    assert model.seen[0] == {'a.lr': [pytest.approx(PEAK / 10)], 'b.lr': [pytest.approx(0.01)]}


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


# Wrong settings


@pytest.mark.parametrize('settings, message', [
    (dict(pct_start=1.5), r'pct_start must be in \[0, 1\], got 1.5'),
    (dict(pct_start=-0.1), 'pct_start'),
    (dict(mom_pct_start=2), r'mom_pct_start must be in \[0, 1\], got 2'),
    (dict(moms=()), 'moms must be two numbers'),
    (dict(moms=(0.95,)), 'moms must be two numbers'),
    (dict(moms=(1.0, 0.85)), 'moms must be two numbers'),
    (dict(div_factor=0), 'div_factor must be > 0, got 0'),
    (dict(final_div_factor=-1), 'final_div_factor must be > 0'),
    (dict(eta_max=0), 'eta_max must be > 0'),
    (dict(eta_max=[1e-3, 1e-3]), 'one a group, got 2 for 1 groups'),
    (dict(total_steps=0), 'got total_steps=0'),
    (dict(total_steps=2.5), 'got total_steps=2.5'),
    (dict(end=None), 'needs total_steps or end'),
    (dict(begin=10), 'needs total_steps or end'),
    (dict(begin=11, total_steps=3), 'end should be larger than begin'),
])
def test_a_wrong_setting_is_refused_at_construction(settings, message):
    settings = {'end': 10, 'by_epoch': False, **settings}
    if settings['end'] is None:
        del settings['end']
    with pytest.raises(ValueError, match=message):
        OneCycleParamScheduler(make_optimizer(), **settings)


@pytest.mark.parametrize('scheduler, settings, message', [
    (CosineAnnealingParamScheduler, dict(warmup_iters=-1, num_epochs=2), 'warmup_iters must be >= 0, got -1'),
    (CosineAnnealingParamScheduler, dict(), 'num_epochs is missing'),
    (CosineAnnealingParamScheduler, dict(num_epochs=0), 'num_epochs must be > 0'),
    (StepDecayLR, dict(milestones=[3, -1]), 'milestones must be >= 0'),
    (StepDecayLR, dict(milestones=[3], gamma=0), 'gamma must be > 0'),
    (StepDecayLR, dict(milestones=[3], eta_min=-1), 'eta_min must be >= 0'),
    (CosineWarmupLR, dict(div_factor=0), 'div_factor must be > 0'),
])
def test_a_wrong_setting_of_the_others_is_refused_too(scheduler, settings, message):
    with pytest.raises(ValueError, match=message):
        scheduler(make_optimizer(), end=10, by_epoch=False, **settings)


@pytest.mark.parametrize('settings, message', [(dict(by_epoch=False, epoch_length=5), 'by_epoch=False'),
                                               (dict(epoch_length=None), 'epoch_length'),
                                               (dict(epoch_length=0), 'epoch_length')])
def test_conversion_from_epochs_refuses_what_it_cannot_convert(settings, message):
    with pytest.raises(ValueError, match=message):
        OneCycleParamScheduler.build_iter_from_epoch(make_optimizer(), end=3, **settings)


@pytest.mark.parametrize('ours_first', [True, False])
@pytest.mark.parametrize('begin, told', [(0, 1), (8, 0)])
def test_another_scheduler_at_the_same_time_is_told_of_once(begin, told, ours_first, monkeypatch):
    messages = []
    monkeypatch.setattr('bevfusion_plugin.engine.schedules.curve_scheduler.print_log', lambda text, **settings: messages.append(text))
    optimizer = torch.optim.SGD(torch.nn.Linear(2, 1).parameters(), lr=PEAK)
    build = [lambda: LinearLR(optimizer, start_factor=0.001, by_epoch=False, end=8),
             lambda: StepDecayLR(optimizer, milestones=[12], gamma=0.1, by_epoch=False, begin=begin, end=16)]
    schedulers = [make() for make in (reversed(build) if ours_first else build)]
    for _ in range(15):
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    assert ['something else moves them at the same time' in text for text in messages] == [True] * told
