import importlib.util
from pathlib import Path

import pytest
from mmengine.config import Config

from bevfusion_plugin.doctor.case import Case
from bevfusion_plugin.doctor.finding import RULES
from bevfusion_plugin.doctor.rules import schedule as schedule_rules  # noqa: F401  enters the rules

ADAMW = dict(type='AdamW', lr=2e-4, weight_decay=0.01)
WARMUP = dict(type='LinearLR', start_factor=0.33333333, by_epoch=False, begin=0, end=500)
OUR_CYCLE = dict(type='bevfusion_plugin.OneCycleParamScheduler', moms=(0.9, 0.805), end=6, convert_to_iter_based=True)


def cosine(**settings):
    return dict(type='CosineAnnealingLR', by_epoch=True, convert_to_iter_based=True, eta_min_ratio=1e-4, **settings)


def momentum(eta_min, begin, end):
    return dict(type='CosineAnnealingMomentum', eta_min=eta_min, begin=begin, end=end, by_epoch=True, convert_to_iter_based=True)


def recipe(schedulers=None, accumulative_counts=1, optimizer=None, train_cfg=None):
    """mmdetection3d's BEVFusion recipe, as far as schedules go, with what a test changes in it."""
    stock = [WARMUP, cosine(begin=0, T_max=6, end=6), momentum(0.85 / 0.95, 0, 2.4), momentum(1, 2.4, 6)]
    return Config(
        dict(
            optim_wrapper=dict(type='OptimWrapper', optimizer=optimizer or ADAMW, accumulative_counts=accumulative_counts),
            param_scheduler=stock if schedulers is None else schedulers,
            train_dataloader=dict(batch_size=4),
            train_cfg=train_cfg or dict(by_epoch=True, max_epochs=6),
        )
    )


def problems(name, cfg, gpus=8, samples=None):
    """(severity, problem) of everything that one rule finds."""
    case = Case(cfg, gpus)
    if samples:
        case.samples = samples
    return [(problem.severity or RULES[name].severity, problem) for problem in RULES[name].check(case)]


def mended(cfg, problem):
    new = Config(cfg.to_dict())
    new.merge_from_dict(problem.changes)
    return new


def severities(name, cfg, **kwargs):
    return [severity for severity, _ in problems(name, cfg, **kwargs)]


# ---- beta1


def test_the_reference_recipe_lets_beta1_go_to_one_and_the_mend_brings_it_back():
    ((severity, problem),) = problems('beta1-too-high', recipe())
    assert severity == 'error'
    assert 'starts at 0.9, reaches 1 and ends at 1; it is above 0.95 for 29% of the training' in problem.message
    assert problem.changes['param_scheduler.2.eta_min'] == pytest.approx(0.8053, abs=1e-4)
    assert problem.changes['param_scheduler.3.eta_min'] == pytest.approx(0.9)
    assert not problems('beta1-too-high', mended(recipe(), problem))
    assert not problems('beta1-hardly-cycled', mended(recipe(), problem))


@pytest.mark.parametrize(
    'schedulers, optimizer', [([cosine(end=6)], dict(ADAMW, betas=(0.98, 0.999))), ([dict(OUR_CYCLE, moms=(0.99, 0.85))], ADAMW)]
)
def test_a_beta1_that_is_high_from_the_start_is_mended_too(schedulers, optimizer):
    cfg = recipe(schedulers, optimizer=optimizer)
    ((severity, problem),) = problems('beta1-too-high', cfg)
    assert severity == 'error' and not problems('beta1-too-high', mended(cfg, problem))


@pytest.mark.parametrize(
    'schedulers, optimizer',
    [
        ([dict(OUR_CYCLE, moms=(0.95, 0.85))], ADAMW),  # at the limit, not above
        ([cosine(end=6)], dict(type='SGD', lr=0.1, momentum=0.99)),
    ],
)  # no bias correction
def test_a_beta1_within_bounds_and_the_momentum_of_sgd_are_left_alone(schedulers, optimizer):
    assert not problems('beta1-too-high', recipe(schedulers, optimizer=optimizer))


def test_a_cycle_between_high_values_is_worth_a_warning():
    cfg = recipe([cosine(end=6), momentum(0.87, 0, 3), momentum(0.9, 3, 6)])
    ((severity, problem),) = problems('beta1-hardly-cycled', cfg)
    assert severity == 'warning' and 'between 0.87 and 0.9' in problem.message
    assert not problems('beta1-hardly-cycled', mended(cfg, problem))
    assert not problems('beta1-hardly-cycled', recipe([cosine(end=6)])), 'a constant beta1 is not cycled'
    assert not problems('beta1-hardly-cycled', recipe()), 'beta1-too-high says it all'


# ---- length


def test_ten_epochs_with_schedulers_that_end_after_six_are_an_error_for_each_curve():
    cfg = recipe(train_cfg=dict(by_epoch=True, max_epochs=10))
    found = problems('schedule-ends-early', cfg, samples=32_000)
    assert [severity for severity, _ in found] == ['error', 'error']
    assert 'the last scheduler of the learning rate ends at epoch 6 of 10, update 6,000 of 10,000' in found[0][1].message
    assert 'of beta1' in found[1][1].message
    assert found[0][1].changes == {'param_scheduler.1.end': 10, 'param_scheduler.1.T_max': 10}
    both = mended(mended(cfg, found[0][1]), found[1][1])
    assert not problems('schedule-ends-early', both) and not problems('cosine-period', both)


@pytest.mark.parametrize(
    'schedulers',
    [
        [WARMUP],
        [dict(type='LinearLR', end=1)],
        [],  # constant after the warm-up, as it should be
        [WARMUP, dict(type='MultiStepLR', milestones=[4, 5], end=6)],
        [dict(type='PolyLR', by_epoch=False)],  # Runner fills in the end
        [OUR_CYCLE],
    ],
)
def test_schedules_that_fill_the_training_are_fine(schedulers):
    assert not problems('schedule-ends-early', recipe(schedulers)) and not problems('schedule-ends-late', recipe(schedulers))


def test_ends_in_iterations_are_compared_only_where_the_length_of_an_epoch_is_known():
    cfg = recipe([dict(type='PolyLR', by_epoch=False, end=3000)])
    assert not problems('schedule-ends-early', cfg)
    ((severity, problem),) = problems('schedule-ends-early', cfg, samples=32_000)
    assert severity == 'error' and problem.changes == {'param_scheduler.0.end': 6000}
    assert not problems('schedule-ends-early', cfg, samples=16_000)


def test_a_loop_over_iterations_has_a_known_length():
    cfg = recipe([dict(type='CosineAnnealingLR', by_epoch=False, end=50)], train_cfg=dict(by_epoch=False, max_iters=100))
    ((_, problem),) = problems('schedule-ends-early', cfg)
    assert 'at update 50 of 100' in problem.message and problem.changes == {'param_scheduler.0.end': 100}


def test_a_curve_that_is_cut_off_is_worth_a_warning_and_milestones_are_not_a_curve():
    cfg = recipe([cosine(begin=0, T_max=12, end=12), dict(type='MultiStepLR', milestones=[4], end=12)])
    ((severity, problem),) = problems('schedule-ends-late', cfg)
    assert severity == 'warning' and 'would end at epoch 12 of 6' in problem.message
    assert not problems('schedule-ends-late', mended(cfg, problem))


def test_a_one_cycle_in_updates_whose_end_is_in_micro_batches_is_cut_off():
    cfg = recipe([dict(type='bevfusion_plugin.OneCycleParamScheduler', by_epoch=False, end=6000)], accumulative_counts=4)
    ((_, problem),) = problems('schedule-ends-late', cfg, samples=32_000)
    assert problem.changes == {'param_scheduler.0.end': 1500}
    assert not problems('schedule-ends-late', mended(cfg, problem), samples=32_000)


@pytest.mark.parametrize('period, words', [(3, 'turns back before its end'), (9, 'is cut off before its floor')])
def test_a_cosine_with_another_period_is_worth_a_warning(period, words):
    cfg = recipe([cosine(begin=0, T_max=period, end=6)])
    ((severity, problem),) = problems('cosine-period', cfg)
    assert severity == 'warning' and words in problem.message and problem.changes == {'param_scheduler.0.T_max': 6}


def test_the_reference_recipe_has_no_fault_of_length():
    for name in ('schedule-ends-early', 'schedule-ends-late', 'cosine-period', 'schedule-not-buildable', 'epochs-in-iteration-loop'):
        assert not problems(name, recipe(), samples=123_580)


def test_a_scheduler_of_epochs_never_steps_in_a_loop_over_iterations():
    cfg = recipe([dict(type='CosineAnnealingLR', end=100)], train_cfg=dict(by_epoch=False, max_iters=100))
    ((severity, problem),) = problems('epochs-in-iteration-loop', cfg)
    assert severity == 'error' and 'never steps' in problem.message
    assert not problems('epochs-in-iteration-loop', mended(cfg, problem))
    assert not problems('epochs-in-iteration-loop', recipe())


# ---- warm-up


def test_a_warm_up_of_micro_batches_shrinks_with_accumulation_but_ours_does_not():
    cfg = recipe(accumulative_counts=8)
    ((severity, problem),) = problems('warmup-in-micro-batches', cfg)
    assert severity == 'warning' and 'accumulative_counts=8 are 63 updates' in problem.message
    assert problem.changes == {'param_scheduler.0.end': 4000}
    assert severities('warmup-in-micro-batches', recipe(accumulative_counts=2)) == ['info'], '250 updates are enough'
    assert not problems('warmup-in-micro-batches', recipe())
    assert not problems('warmup-in-micro-batches', recipe([OUR_CYCLE], accumulative_counts=8))


def test_what_takes_over_from_the_warm_up_moves_with_it():
    cfg = recipe([WARMUP, dict(type='PolyLR', by_epoch=False, begin=500)], accumulative_counts=8)
    ((_, problem),) = problems('warmup-in-micro-batches', cfg)
    assert problem.changes == {'param_scheduler.0.end': 4000, 'param_scheduler.1.begin': 4000}


# ---- what cannot be followed


def test_a_schedule_that_cannot_be_built_is_one_error_and_silences_the_other_rules():
    cfg = recipe([dict(type='NoSuchLR')])
    cfg.default_scope = 'mmengine'
    ((severity, problem),) = problems('schedule-not-buildable', cfg)
    assert severity == 'error' and 'NoSuchLR' in problem.message
    assert not any(problems(name, cfg) for name in RULES if name.startswith(('beta1', 'schedule-ends', 'warmup')))


def test_a_failure_that_hangs_on_an_assumed_length_is_a_warning():
    cfg = recipe([dict(type='OneCycleLR', eta_max=1e-3, total_steps=3000, by_epoch=False)])
    assert severities('schedule-not-buildable', cfg) == ['warning']
    assert severities('schedule-not-buildable', cfg, samples=32_000) == ['error']
    assert severities('schedule-not-buildable', cfg, samples=15_000) == []


def test_a_quick_look_with_shortened_epochs_compares_no_ends_in_iterations():
    case = Case(recipe([dict(type='PolyLR', by_epoch=False, end=6000)]), 8, quick=True)
    case.samples = 32_000
    assert case.trace.updates < 6000
    assert not list(RULES['schedule-ends-late'].check(case)) and not list(RULES['schedule-ends-early'].check(case))


@pytest.mark.parametrize(
    'config, rule, words',
    [
        ('paconv/paconv_ssg-cuda_8xb8-cosine-200e_s3dis-seg.py', 'schedule-ends-early', 'ends at epoch 150 of 200'),
        ('pointnet2/pointnet2_msg_2xb16-cosine-80e_s3dis-seg.py', 'schedule-ends-early', 'ends at epoch 50 of 80'),
        ('centerpoint/centerpoint_pillar02_second_secfpn_8xb4-cyclic-20e_nus-3d.py', 'beta1-too-high', 'is above 0.95 for 29%'),
    ],
)
def test_mmdet3ds_own_configs_have_the_faults_they_have(config, rule, words):
    package = Path(importlib.util.find_spec('mmdet3d').submodule_search_locations[0])
    cfg = Config.fromfile(package / '.mim' / 'configs' / config)
    case = Case(cfg, 8)
    case.samples = 1600  # short epochs: these recipes count epochs alone
    found = {
        name: [problem.message for problem in RULES[name].check(case)]
        for name in RULES
        if RULES[name].check.__module__ == schedule_rules.__name__
    }
    assert [name for name, messages in found.items() if messages] == [rule]
    assert words in found[rule][0]


def test_a_plan_that_contradicts_itself_is_left_to_its_own_rule():
    cfg = recipe(accumulative_counts=0)
    assert not problems('schedule-not-buildable', cfg)


def test_a_training_too_long_to_follow_is_said_for_information():
    cfg = recipe([], train_cfg=dict(by_epoch=False, max_iters=10**8))
    ((severity, problem),) = problems('schedule-not-buildable', cfg)
    assert severity == 'info' and '100,000,000' in problem.message


@pytest.mark.parametrize(
    'content',
    [
        {},
        dict(param_scheduler=[None, 3]),
        dict(optim_wrapper=[1], param_scheduler=dict(a=1)),
        dict(optim_wrapper=dict(optimizer=ADAMW)),
        dict(train_cfg=dict(max_epochs='six')),
    ],
)
def test_no_rule_of_schedules_crashes_on_an_odd_config(content):
    for name in RULES:
        if RULES[name].check.__module__ == schedule_rules.__name__:
            cfg = Config(content)
            before = cfg.to_dict()
            problems(name, cfg)
            assert cfg.to_dict() == before, name  # nor does one change it


def test_a_curve_without_end_in_a_loop_over_iterations_is_one_epoch_long():
    cycle = dict(type='bevfusion_plugin.OneCycleParamScheduler', convert_to_iter_based=True)
    cfg = recipe([cycle], train_cfg=dict(by_epoch=False, max_iters=1000))
    ((severity, problem),) = problems('epochs-in-iteration-loop', cfg)
    assert severity == 'error' and 'has no end' in problem.message and 'max_iters=1000' in problem.message
