from __future__ import annotations

import pytest
import torch
from mmengine.optim import OptimWrapper
from mmengine.optim.scheduler import CosineAnnealingLR, LinearLR
from stepped_schedulers import MAKERS, PEAK, lrs, make_optimizer, values, walk

from bevfusion_plugin.engine import CosineAnnealingParamScheduler, CosineWarmupLR, OneCycleParamScheduler, StepDecayLR

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
        [PEAK, PEAK, PEAK, PEAK / 10, PEAK / 100, PEAK / 100]
    )


@pytest.mark.parametrize(
    'second',
    [
        lambda optimizer: CosineAnnealingLR(optimizer, T_max=10, begin=10, end=20, by_epoch=False),
        lambda optimizer: OneCycleParamScheduler(optimizer, begin=10, end=20, by_epoch=False),
    ],
)
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


# Wrong settings


@pytest.mark.parametrize(
    'settings, message',
    [
        (dict(pct_start=1.5), r'pct_start must be in \[0, 1\], got 1.5'),
        (dict(pct_start=-0.1), 'pct_start'),
        (dict(mom_pct_start=2), r'mom_pct_start must be in \[0, 1\], got 2'),
        (dict(moms=()), 'moms must be 2 finite numbers'),
        (dict(moms=(0.95,)), 'moms must be 2 finite numbers'),
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
    ],
)
def test_a_wrong_setting_is_refused_at_construction(settings, message):
    settings = {'end': 10, 'by_epoch': False, **settings}
    if settings['end'] is None:
        del settings['end']
    with pytest.raises(ValueError, match=message):
        OneCycleParamScheduler(make_optimizer(), **settings)


@pytest.mark.parametrize(
    'scheduler, settings, message',
    [
        (CosineAnnealingParamScheduler, dict(warmup_iters=-1, num_epochs=2), 'warmup_iters must be a finite number >= 0, got -1'),
        (CosineAnnealingParamScheduler, dict(), 'num_epochs is missing'),
        (CosineAnnealingParamScheduler, dict(num_epochs=0), 'num_epochs must be > 0'),
        (StepDecayLR, dict(milestones=[3, -1]), 'milestones must be finite numbers >= 0'),
        (StepDecayLR, dict(milestones=[3], gamma=0), 'gamma must be > 0'),
        (StepDecayLR, dict(milestones=[3], eta_min=-1), 'eta_min must be a finite number >= 0'),
        (CosineWarmupLR, dict(div_factor=0), 'div_factor must be > 0'),
    ],
)
def test_a_wrong_setting_of_the_others_is_refused_too(scheduler, settings, message):
    with pytest.raises(ValueError, match=message):
        scheduler(make_optimizer(), end=10, by_epoch=False, **settings)


@pytest.mark.parametrize(
    'settings, message',
    [
        (dict(by_epoch=False, epoch_length=5), 'by_epoch=False'),
        (dict(epoch_length=None), 'epoch_length'),
        (dict(epoch_length=0), 'epoch_length'),
    ],
)
def test_conversion_from_epochs_refuses_what_it_cannot_convert(settings, message):
    with pytest.raises(ValueError, match=message):
        OneCycleParamScheduler.build_iter_from_epoch(make_optimizer(), end=3, **settings)


@pytest.mark.parametrize('ours_first', [True, False])
@pytest.mark.parametrize('begin, told', [(0, 1), (8, 0)])
def test_another_scheduler_at_the_same_time_is_told_of_once(begin, told, ours_first, monkeypatch):
    messages = []
    monkeypatch.setattr('bevfusion_plugin.engine.schedules.curve_scheduler.print_log', lambda text, **settings: messages.append(text))
    optimizer = torch.optim.SGD(torch.nn.Linear(2, 1).parameters(), lr=PEAK)
    build = [
        lambda: LinearLR(optimizer, start_factor=0.001, by_epoch=False, end=8),
        lambda: StepDecayLR(optimizer, milestones=[12], gamma=0.1, by_epoch=False, begin=begin, end=16),
    ]
    schedulers = [make() for make in (reversed(build) if ours_first else build)]
    for _ in range(15):
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    assert ['something else moves them at the same time' in text for text in messages] == [True] * told
