import pytest
from mmengine.config import Config
from torch.optim import AdamW

from bevfusion_plugin.doctor.reading import config as reading

ADAMW = dict(type='AdamW', lr=1e-3)
ODD = [None, 3, 'text', [], [1, None], {}, dict(type=None), [[dict()]], True]
READERS = [
    'optim_wrappers',
    'optim_wrapper',
    'optimizer_cfg',
    'learning_rate',
    'is_adam',
    'precision_of',
    'param_schedulers',
    'scheduler_keys',
    'auto_scale_lr',
    'scales_lr',
    'scale_hook',
    'train_cfg',
    'is_by_iteration',
    'max_epochs',
    'max_iters',
    'samples_per_gpu',
    'innermost_dataset',
    'innermost_datasets',
    'dataset_wrappers',
    'hooks',
]
KEYS = ['optim_wrapper', 'param_scheduler', 'auto_scale_lr', 'train_cfg', 'train_dataloader', 'custom_hooks', 'default_hooks', 'model']


@pytest.mark.parametrize('value', ODD, ids=map(str, ODD))
@pytest.mark.parametrize('reader', READERS)
def test_no_reader_crashes_on_a_senseless_value(reader, value):
    read = getattr(reading, reader)
    read(Config({}))
    for key in KEYS:
        read(Config({key: value}))
    inner = [
        dict(optim_wrapper=dict(optimizer=value, accumulative_counts=value, type=value)),
        dict(train_cfg=dict(type=value)),
        dict(train_dataloader=dict(dataset=dict(dataset=value, pipeline=value), batch_size=value)),
        dict(param_scheduler=dict(a=value)),
        dict(model=dict(bbox_head=value)),
    ]
    for content in inner:
        cfg = Config(content)
        before = cfg.to_dict()
        read(cfg)
        assert cfg.to_dict() == before  # nor does one change it


def test_names_are_read_from_strings_and_classes():
    assert reading.full_name(dict(type='mmdet3d.CBGSDataset')) == 'mmdet3d.CBGSDataset'
    assert reading.short_name(dict(type='mmdet3d.CBGSDataset')) == 'CBGSDataset'
    assert reading.full_name(dict(type=AdamW)) == 'torch.optim.adamw.AdamW' and reading.short_name(dict(type=AdamW)) == 'AdamW'
    assert reading.short_name({}) == reading.short_name(None) == ''


def test_only_prefixed_names_and_our_classes_are_ours():
    from bevfusion_plugin.engine import OneCycleParamScheduler

    assert reading.is_ours(dict(type='bevfusion_plugin.OneCycleParamScheduler'))
    assert reading.is_ours(dict(type=OneCycleParamScheduler), 'OneCycleParamScheduler')
    assert not reading.is_ours(dict(type='OneCycleParamScheduler'))
    assert not reading.is_ours(dict(type='bevfusion_plugin.StepDecayLR'), 'OneCycleParamScheduler')


def test_one_optimizer_and_several_are_told_apart():
    one = Config(dict(optim_wrapper=dict(type='OptimWrapper', optimizer=ADAMW)))
    assert reading.learning_rate(one) == 1e-3 and reading.is_adam(one)
    several = Config(dict(optim_wrapper=dict(constructor='X', a=dict(optimizer=ADAMW), b=dict(optimizer=ADAMW))))
    assert list(reading.optim_wrappers(several)) == ['a', 'b'] and reading.optim_wrapper(several) == {}


@pytest.mark.parametrize(
    'kind, dtype, expected',
    [
        ('OptimWrapper', None, 'float32'),
        ('AmpOptimWrapper', None, 'float16'),
        ('AmpOptimWrapper', 'bfloat16', 'bfloat16'),
        ('AmpOptimWrapper', 'torch.float16', 'float16'),
        ('bevfusion_plugin.AccumulativeAmpOptimWrapper', None, 'float16'),
        ('bevfusion_plugin.AccumulativeAmpOptimWrapper', 'float32', 'float32'),
    ],
)
def test_the_precision_is_what_an_amp_wrapper_casts_to_on_a_gpu(kind, dtype, expected):
    wrapper = dict(type=kind, optimizer=ADAMW, **({} if dtype is None else dict(dtype=dtype)))
    assert reading.precision_of(Config(dict(optim_wrapper=wrapper))) == expected


def test_schedulers_and_their_keys_match_in_every_form_of_the_config():
    one, two = dict(type='LinearLR'), dict(type='CosineAnnealingMomentum')
    for schedulers, keys in [
        (one, ['param_scheduler']),
        ([one, two], ['param_scheduler.0', 'param_scheduler.1']),
        (None, []),
        ([one, 'junk', two], ['param_scheduler.0', 'param_scheduler.2']),
        (dict(a=[one], b=two), ['param_scheduler.a.0', 'param_scheduler.b']),
    ]:
        cfg = Config(dict(param_scheduler=schedulers))
        assert reading.scheduler_keys(cfg) == keys
        assert len(reading.param_schedulers(cfg)) == len(keys)
    assert reading.moves_momentum(two) and not reading.moves_momentum(one)


@pytest.mark.parametrize(
    'train, epochs, iterations',
    [
        (dict(max_epochs=6), 6, None),
        (dict(by_epoch=True, max_epochs=6), 6, None),
        (dict(by_epoch=False, max_iters=9), None, 9),
        (dict(type='IterBasedTrainLoop', max_iters=9), None, 9),
        (dict(type='EpochBasedTrainLoop', max_epochs=2), 2, None),
        (None, None, None),
    ],
)
def test_the_training_counts_epochs_or_iterations(train, epochs, iterations):
    cfg = Config(dict(train_cfg=train))
    assert (reading.max_epochs(cfg), reading.max_iters(cfg)) == (epochs, iterations)


def test_the_samples_of_a_micro_batch_may_stand_in_the_batch_sampler():
    assert reading.samples_per_gpu(Config(dict(train_dataloader=dict(batch_size=3)))) == 3
    assert reading.samples_per_gpu(Config(dict(train_dataloader=dict(batch_sampler=dict(batch_size=5))))) == 5


def test_data_sets_are_found_inside_their_wrappers():
    inner = dict(type='NuScenesDataset')
    cfg = Config(dict(train_dataloader=dict(dataset=dict(type='CBGSDataset', dataset=dict(type='ConcatDataset', datasets=[inner, inner])))))
    assert reading.innermost_dataset(cfg)['type'] == 'NuScenesDataset' and reading.innermost_dataset(cfg, 'val') == {}
    assert [wrapper['type'] for wrapper in reading.dataset_wrappers(cfg)] == ['CBGSDataset', 'ConcatDataset']
    assert reading.innermost_datasets(cfg) == [inner, inner] and reading.innermost_datasets(cfg, 'val') == []


def test_hooks_are_found_among_the_default_and_the_custom_ones():
    cfg = Config(
        dict(
            default_hooks=dict(timer=None, sync=dict(type='SyncBuffersHook'), logger=dict(interval=5)),
            custom_hooks=[dict(type='bevfusion_plugin.AutoScaleLRHook', enable=True)],
        )
    )
    assert reading.has_hook(cfg, 'SyncBuffersHook') and not reading.has_hook(cfg, 'EMAHook')
    assert reading.scale_hook(cfg)['enable'] is True and reading.scales_lr(cfg)
    assert not reading.scale_hook(Config(dict(custom_hooks=[dict(type='AutoScaleLRHook')])))


def test_the_model_is_walked_with_dotted_paths():
    model = dict(type='BEVFusion', neck=[dict(type='A', norm_cfg=dict(type='BN'))])
    assert [path for path, _ in reading.parts(model)] == ['model', 'model.neck.0', 'model.neck.0.norm_cfg']
