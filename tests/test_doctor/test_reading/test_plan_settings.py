import pytest
from mmengine.config import Config

from bevfusion_plugin.doctor.reading.plan_settings import settings_of, training_from, warm_up_of
from bevfusion_plugin.plan.judgement import WarmUp

NUSCENES = dict(type='NuScenesDataset')


def test_a_recipe_tells_everything(request):
    settings = settings_of(Config.fromfile(request.config.rootpath / 'configs/bevfusion_4x4090.py'))
    training = training_from(settings)
    assert (settings['samples_per_rank'], settings['accumulative_counts']) == (3, 8)
    assert (training.world_size, training.base_batch_size, training.lr, training.epochs) == (4, 32, 2e-4, 8)
    assert (training.samples, training.rule, training.batch_norm) == (123_580, 'none', True)
    assert training.warm_up == WarmUp(500 / 23_172, 'share')


@pytest.mark.parametrize(
    'scaling, rule',
    [
        (dict(enable=True, base_batch_size=8, rule='sqrt'), 'sqrt'),
        (dict(enable=True, base_batch_size=8), 'linear'),
        (dict(enable=False, base_batch_size=8, rule='sqrt'), 'none'),
        (dict(), 'none'),
    ],
)
def test_the_rule_in_force_is_read_off_the_switch(scaling, rule):
    assert settings_of(Config(dict(auto_scale_lr=scaling)))['rule'] == rule


def test_automatic_accumulation_leaves_a_open():
    settings = settings_of(Config(dict(optim_wrapper=dict(accumulative_counts='auto', total_batch_size=32))))
    assert 'accumulative_counts' not in settings and settings['total_batch_size'] == 32


def test_everything_missing_is_named_at_once():
    with pytest.raises(ValueError) as error:
        training_from(settings_of(Config(dict())))
    for flag in ('--gpus', '--base-batch-size', '--lr', '--samples', '--epochs'):
        assert flag in str(error.value)


@pytest.mark.parametrize(
    'schedulers, expected',
    [
        ([dict(type='LinearLR', start_factor=0.3, by_epoch=False, begin=0, end=500)], WarmUp(500, 'micro-batches')),
        ([dict(type='LinearLR', by_epoch=True, end=2)], WarmUp(2, 'epochs')),
        ([dict(type='CosineAnnealingLR', eta_min=1e-3, end=8), dict(type='CosineAnnealingLR', begin=8)], WarmUp(8, 'epochs')),
        ([dict(type='CosineAnnealingLR', T_max=8, end=8)], WarmUp(0, 'epochs')),
        ([dict(type='CosineAnnealingMomentum', end=8), dict(type='LinearLR', end=1)], WarmUp(1, 'epochs')),
        ([dict(type='bevfusion_plugin.OneCycleParamScheduler')], WarmUp(0.4, 'share')),
        (dict(type='OneCycleLR', pct_start=0.2), WarmUp(0.2, 'share')),
        ([dict(type='bevfusion_plugin.CosineAnnealingParamScheduler', warmup_iters=500)], WarmUp(500, 'updates')),
        ([dict(type='bevfusion_plugin.CosineWarmupLR', end=100, by_epoch=False)], WarmUp(100, 'updates')),
        ([dict(type='MultiStepLR', milestones=[8])], WarmUp(0, 'epochs')),
        (None, WarmUp(0, 'epochs')),
    ],
)
def test_the_warm_up_is_that_of_the_first_scheduler_of_the_lr(schedulers, expected):
    assert warm_up_of(schedulers, lr=1e-4) == expected
