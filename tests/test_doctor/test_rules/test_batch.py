from pathlib import Path

import pytest
from mmengine.config import Config

from bevfusion_plugin.doctor.case import Case
from bevfusion_plugin.doctor.examination import all_rules
from bevfusion_plugin.doctor.finding import RULES
from bevfusion_plugin.doctor.rules import batch as batch_rules
from bevfusion_plugin.doctor.rules import schedule as schedule_rules
from bevfusion_plugin.doctor.rules import update as update_rules

CONFIGS = Path(__file__).parents[3] / 'configs'
OPTIMISATION = (schedule_rules.__name__, batch_rules.__name__, update_rules.__name__)
SCALE_HOOK = dict(type='bevfusion_plugin.AutoScaleLRHook')
RAMP = [
    dict(type='CosineAnnealingLR', T_max=8, eta_min=2e-3, begin=0, end=8, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', T_max=12, eta_min=2e-8, begin=8, end=20, convert_to_iter_based=True),
]


def recipe(samples=4, accumulative_counts=1, base=32, enable=False, hook=None, rule=None, schedulers=(), model=None, **more):
    """mmdetection3d's BEVFusion recipe, as far as the batch goes, with what a test changes in it."""
    wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=2e-4), accumulative_counts=accumulative_counts)
    scaling = dict(enable=enable, base_batch_size=base, **(dict(rule=rule) if rule else {}))
    return Config(
        dict(
            optim_wrapper=wrapper,
            auto_scale_lr=scaling,
            param_scheduler=list(schedulers),
            model=model or {},
            custom_hooks=[hook] if hook else [],
            train_dataloader=dict(batch_size=samples),
            train_cfg=dict(by_epoch=True, max_epochs=20),
            val_dataloader=dict(batch_size=1),
        )
        | more
    )


def problems(name, cfg, gpus=4, samples=None):
    """(severity, problem) of everything that one rule finds."""
    case = Case(cfg, gpus)
    if samples:
        case.samples = samples
    return [(problem.severity or RULES[name].severity, problem) for problem in RULES[name].check(case)]


def severities(name, cfg, **kwargs):
    return [severity for severity, _ in problems(name, cfg, **kwargs)]


def mended(cfg, problem):
    new = Config(cfg.to_dict())
    new.merge_from_dict(problem.changes)
    return new


# ---- learning rate


@pytest.mark.parametrize(
    'samples, counts, severity',
    [
        (3, 1, 'error'),  # 12: mit-han-lab/bevfusion#619, 62.8 mAP
        (4, 1, 'warning'),  # 16: twice the linear rule, not more
        (2, 4, None),
        (3, 3, None),
        (4, 2, None),  # 32, 36 and 32
        (3, 8, 'warning'),
    ],
)  # 96: too low, which costs time but diverges nowhere
def test_an_unscaled_learning_rate_is_judged_by_how_far_it_is_off(samples, counts, severity):
    assert severities('lr-off-the-batch', recipe(samples, counts)) == [severity] * bool(severity)


def test_the_rates_that_either_rule_gives_are_named_and_the_mend_is_enough():
    cfg = recipe(3)
    ((_, problem),) = problems('lr-off-the-batch', cfg)
    assert 'of 0.0002' in problem.message and '7.5e-05 by the linear rule, 0.000122 by the square root' in problem.message
    assert problem.changes == {'auto_scale_lr.enable': True, 'default_hooks.auto_scale_lr': SCALE_HOOK}
    assert not problems('lr-off-the-batch', mended(cfg, problem))


def test_the_peak_of_a_ramp_is_what_gets_named():
    ((_, problem),) = problems('lr-off-the-batch', recipe(1, schedulers=RAMP))
    assert 'the learning rate of 0.002 was tuned' in problem.message


@pytest.mark.parametrize('rule', ['linear', 'sqrt'])
def test_what_our_hook_scales_is_right_by_either_rule(rule):
    assert not problems('lr-off-the-batch', recipe(1, 2, enable=True, hook=SCALE_HOOK, rule=rule))


@pytest.mark.parametrize(
    'settings', [dict(enable=True, hook=SCALE_HOOK, rule='none'), dict(enable=True, hook=dict(SCALE_HOOK, enable=False))]
)
def test_scaling_that_is_switched_off_elsewhere_is_found_and_mended(settings):
    cfg = recipe(1, **settings)
    ((severity, problem),) = problems('lr-off-the-batch', cfg)
    assert severity == 'error' and not problems('lr-off-the-batch', mended(cfg, problem))


def test_a_small_difference_from_the_base_batch_is_a_hint_to_switch_scaling_on():
    cfg = recipe(3, 3)
    ((severity, problem),) = problems('auto-scale-off', cfg)
    assert severity == 'warning' and '4 x 3 x A3 = 36, not the 32' in problem.message
    assert not problems('auto-scale-off', mended(cfg, problem))
    assert not problems('auto-scale-off', recipe(2, 4)), 'the batch is the base batch'
    assert not problems('auto-scale-off', recipe(3, 1)), 'lr-off-the-batch says it'


def test_stock_scaling_with_accumulation_is_an_error_and_ours_is_not():
    cfg = recipe(2, 4, enable=True)
    ((severity, problem),) = problems('accumulation-not-scaled', cfg)
    assert severity == 'error' and 'multiplies the LR by 0.25; 4 x 2 x A4 = 32 over 32 is 1' in problem.message
    assert not problems('accumulation-not-scaled', mended(cfg, problem))
    for fine in (recipe(2, 4, enable=True, hook=SCALE_HOOK), recipe(2, 4), recipe(4, 1, enable=True)):
        assert not problems('accumulation-not-scaled', fine)


def test_absolute_rates_are_errors_only_where_mmengine_scales():
    cfg = recipe(2, enable=True, schedulers=RAMP)
    found = problems('absolute-lr-not-scaled', cfg)
    assert [severity for severity, _ in found] == ['error', 'warning'], 'the floor of 2e-8 shapes nothing'
    assert 'param_scheduler.0: CosineAnnealingLR has eta_min=0.002' in found[0][1].message
    assert not problems('absolute-lr-not-scaled', mended(cfg, found[0][1]))
    assert not problems('absolute-lr-not-scaled', recipe(2, schedulers=RAMP)), 'nothing is scaled'
    assert not problems('absolute-lr-not-scaled', recipe(8, enable=True, schedulers=RAMP)), 'the ratio is 1'
    cycle = [dict(type='OneCycleLR', eta_max=1e-3, total_steps=20_000, by_epoch=False)]
    assert severities('absolute-lr-not-scaled', recipe(2, enable=True, schedulers=cycle)) == ['error']
    momentum = [dict(type='CosineAnnealingMomentum', eta_min=0.8, end=20)]
    assert not problems('absolute-lr-not-scaled', recipe(2, enable=True, schedulers=momentum)), 'momentum is no learning rate'


def test_three_times_the_batch_makes_a_third_of_the_updates():
    ((severity, problem),) = problems('few-updates', recipe(3, 8, train_cfg=dict(by_epoch=True, max_epochs=6)), samples=123_580)
    assert severity == 'warning'
    assert '33% of the updates that the base batch of 32 would: 7,725 instead of 23,172' in problem.message
    assert severities('few-updates', recipe(3, 8, enable=True, hook=SCALE_HOOK)) == ['info']
    assert not problems('few-updates', recipe(4, 4)), 'twice is not more than twice'


def test_a_plan_that_contradicts_itself_is_an_error():
    ((severity, problem),) = problems('batch-plan-impossible', recipe(rule='cubic'))
    assert severity == 'error' and "got 'cubic'" in problem.message


# ---- BatchNorm

BN = dict(encoder=dict(type='SECOND', norm_cfg=dict(type='BN', eps=1e-3)))


@pytest.mark.parametrize('samples, counts, severity', [(3, 8, 'warning'), (1, 8, 'error'), (1, 1, None)])
def test_accumulation_does_not_give_batchnorm_its_samples(samples, counts, severity):
    cfg = recipe(samples, counts, model=BN)
    found = problems('accumulated-batchnorm', cfg)
    assert [each for each, _ in found] == [severity] * bool(severity)
    if severity == 'error':
        assert not problems('accumulated-batchnorm', mended(cfg, found[0][1])), 'SyncBN sees the samples of all ranks'


@pytest.mark.parametrize('counts, expected', [(8, (2, 4)), (3, (3, 1))])
def test_on_one_gpu_the_mend_keeps_the_total_batch(counts, expected):
    cfg = recipe(1, counts, model=BN)
    ((severity, problem),) = problems('accumulated-batchnorm', cfg, gpus=1)
    new = mended(cfg, problem)
    assert severity == 'error' and (new.train_dataloader.batch_size, new.optim_wrapper.accumulative_counts) == expected
    assert severities('accumulated-batchnorm', new, gpus=1) in ([], ['warning'])


@pytest.mark.parametrize(
    'part',
    [
        dict(norm_cfg=dict(type='BN', requires_grad=False)),
        dict(norm_cfg=dict(type='BN'), norm_eval=True),
        dict(norm_cfg=dict(type='LN')),
        dict(norm_cfg=None),
        dict(norm_cfg=dict(type='naiveSyncBN1d')),
        dict(norm_cfg=dict(type='SyncBN')),
    ],
)
def test_frozen_shared_and_other_norms_do_not_count(part):
    for name in ('accumulated-batchnorm', 'unsynchronised-batchnorm'):
        assert not problems(name, recipe(1, 8, model=dict(encoder=part)))


def test_the_lidar_stage_is_named_because_its_authors_advise_against_it():
    lidar = dict(type='BEVFusion', pts_backbone=dict(norm_cfg=dict(type='BN')))
    ((_, problem),) = problems('accumulated-batchnorm', recipe(4, 2, model=lidar))
    assert 'lidar stage' in problem.message
    ((_, problem),) = problems('accumulated-batchnorm', recipe(4, 2, model=dict(lidar, img_backbone=dict(type='Swin'))))
    assert 'lidar stage' not in problem.message


def test_ranks_that_validate_with_their_own_statistics_get_a_warning():
    cfg = recipe(model=BN)
    ((severity, problem),) = problems('unsynchronised-batchnorm', cfg)
    assert severity == 'warning' and not problems('unsynchronised-batchnorm', mended(cfg, problem))
    assert not problems('unsynchronised-batchnorm', cfg, gpus=1)
    assert not problems('unsynchronised-batchnorm', recipe(model=BN, sync_bn='torch'))
    assert not problems('unsynchronised-batchnorm', recipe(model=BN, val_dataloader=None))


def test_a_left_over_window_is_mentioned_with_what_becomes_of_it():
    ((severity, problem),) = problems('partial-window', recipe(3, 8), samples=123_580)
    assert severity == 'info' and '10,299 micro-batches' in problem.message and 'runs on into the next epoch' in problem.message
    ours = recipe(3, 8)
    ours.optim_wrapper.type = 'bevfusion_plugin.AccumulativeAmpOptimWrapper'
    ((_, problem),) = problems('partial-window', ours, samples=123_580)
    assert '3 are left over; its last update is made from that many' in problem.message
    assert not problems('partial-window', recipe(2, 4), samples=123_584) and not problems('partial-window', recipe(3, 8))


# ---- all of them


def findings(cfg, gpus=None):
    case = Case(cfg, gpus)
    case.samples = 9600  # short epochs: the recipes have no setting in iterations
    return [
        (problem.severity or each.severity, each.name)
        for each in all_rules().values()
        if each.check.__module__ in OPTIMISATION
        for problem in each.check(case)
    ]


@pytest.mark.parametrize('config', sorted(path.name for path in CONFIGS.glob('*.py')))
def test_no_recipe_of_ours_has_an_error(config):
    assert 'error' not in dict(findings(Config.fromfile(CONFIGS / config)))


def test_the_exact_recipe_for_four_gpus_has_only_what_accumulation_costs():
    names = [name for _, name in findings(Config.fromfile(CONFIGS / 'bevfusion_4x4090_b32.py'))]
    assert names == ['accumulated-batchnorm', 'small-adam-eps']


def test_the_kept_learning_rate_of_batch_96_is_a_warning():
    found = findings(Config.fromfile(CONFIGS / 'bevfusion_4x4090.py'))
    assert ('warning', 'lr-off-the-batch') in found and ('warning', 'few-updates') in found


ODD = [{}, dict(optim_wrapper=[1], auto_scale_lr=3, model=[None], default_hooks=[], custom_hooks=dict(a=1)),
       dict(optim_wrapper=dict(optimizer=None, clip_grad=3), train_dataloader=dict(batch_size='two'), model='x'),
       dict(optim_wrapper=dict(a=dict(optimizer=dict(type='SGD'))), auto_scale_lr=dict(enable=True), train_dataloader=[1]),
       dict(optim_wrapper=dict(optimizer=dict(type='SGD', lr=1)), auto_scale_lr=dict(enable=True, base_batch_size=0),
            train_dataloader=dict(batch_size=2), train_cfg=dict(max_epochs=2, val_interval='x'),
            default_hooks=dict(checkpoint=dict(interval=-1))),
       dict(optim_wrapper=dict(optimizer=dict(type='SGD', lr=1), accumulative_counts=2), train_dataloader=dict(batch_size=1),
            train_cfg=dict(max_epochs=2), model=dict(a=dict(norm_cfg=dict(type=None)), b=dict(norm_cfg=dict(type='BN'))))]  # fmt: skip


@pytest.mark.parametrize('content', ODD, ids=range(len(ODD)))
def test_no_rule_of_optimisation_crashes_on_an_odd_config(content):
    cfg = Config(content)
    before = cfg.to_dict()
    findings(cfg, gpus=2)
    assert cfg.to_dict() == before  # nor does one change it


@pytest.mark.parametrize('written, mended', [('False', False), ('True', True), ('off', False)])
def test_a_switch_that_is_text_is_an_error_and_mended(written, mended):
    ((severity, problem),) = problems('auto-scale-not-a-switch', recipe(enable=written))
    assert severity == 'error' and problem.changes == {'auto_scale_lr.enable': mended}
    assert f'auto_scale_lr.enable must be True or False, got {written!r}, which counts as True' in problem.message


@pytest.mark.parametrize('enable', [True, False])
def test_a_switch_is_fine(enable):
    assert not problems('auto-scale-not-a-switch', recipe(enable=enable))


@pytest.mark.parametrize(
    'sync_bn, gpus, severity, message',
    [
        ('torch', 1, 'info', "sync_bn='torch' does nothing in one process"),
        ('Torch', 2, 'error', "sync_bn='Torch' is no kind of SyncBatchNorm"),
        (True, 2, 'error', 'sync_bn=True is no kind'),
    ],
)
def test_shared_statistics_that_are_not_shared_are_named(sync_bn, gpus, severity, message):
    cfg = Config.fromfile(CONFIGS / 'bevfusion.py')
    cfg.sync_bn = sync_bn
    (problem,) = RULES['sync-bn-without-effect'].check(Case(cfg, gpus))
    assert (problem.severity or 'error', problem.message.startswith(message)) == (severity, True)


@pytest.mark.parametrize('starting, has_gpu, found', [('train', False, 1), ('train', True, 0), (None, False, 0), ('test', False, 0)])
def test_shared_statistics_need_gpus_where_the_training_starts(starting, has_gpu, found, monkeypatch):
    monkeypatch.setattr('torch.cuda.is_available', lambda: has_gpu)
    cfg = Config.fromfile(CONFIGS / 'bevfusion.py')
    cfg.sync_bn = 'torch'
    problems = list(RULES['sync-bn-without-effect'].check(Case(cfg, 2, starting=starting)))
    assert len(problems) == found and all('needs GPUs' in problem.message for problem in problems)
