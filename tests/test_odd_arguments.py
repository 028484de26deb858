"""Whatever a user writes: a constructor takes it and works for three updates, or refuses it with an error that names argument and value."""

import copy
import math
import tempfile
from pathlib import Path

import pytest
import torch
from constructors import ODD, outcome, places
from data_constructors import DATA
from engine_constructors import ENGINE, WITHOUT_ARGUMENTS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_constructors import model_cases

from bevfusion_plugin import registry
from bevfusion_plugin.registry import HOOKS, PARAM_SCHEDULERS, TRANSFORMS

CASES = {**ENGINE, **DATA, **model_cases()}
VARIANTS = {'ClippedByValue'}  # the wrapper with other settings
small = st.integers(-3, 12) | st.floats(width=32) | st.booleans()
ANYTHING = st.sampled_from(ODD) | small | st.text(max_size=3) | st.lists(small, max_size=4)
quietly = settings(max_examples=12, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))


def test_every_registered_class_has_a_case():
    parts = [part for part in vars(registry).values() if isinstance(part, registry.Registry) and part.scope == registry.SCOPE]
    for part in parts:
        part.import_from_location()
    registered = {name for part in parts for name in part.module_dict}
    assert registered == set(CASES) - VARIANTS | WITHOUT_ARGUMENTS, 'add it to the *_constructors.py in tests/stand_ins'


@pytest.mark.parametrize('name', CASES)
def test_settings_of_the_cases_work(name, tmp_path):
    case = CASES[name]
    case.use(case.build(copy.deepcopy(case.settings)), tmp_path)


@pytest.mark.parametrize('name', [name for name, case in CASES.items() if case.settings])
@quietly
@given(data=st.data())
def test_an_odd_argument_works_or_is_refused_by_name(name, data):
    case = CASES[name]
    path, value = data.draw(st.sampled_from(list(places(case.settings)))), data.draw(ANYTHING)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        came, error = outcome(case, path, value, Path(folder))
    assert came in ('works', 'refused by name'), f'{".".join(path)}={value!r}: {came}, {type(error).__name__}: {error}'


@pytest.mark.parametrize(
    'name, path, value',
    [
        *[('AccumulativeAmpOptimWrapper', ('clip_grad', 'max_norm'), value) for value in (-1, 0, math.nan, '35', True)],
        ('ClippedByValue', ('clip_grad', 'clip_value'), math.inf),
        ('AccumulativeAmpOptimWrapper', ('clip_grad', 'norm'), 35),
        ('AccumulativeAmpOptimWrapper', ('loss_scale', 'init_scale'), math.nan),
        ('AccumulativeAmpOptimWrapper', ('loss_scale', 'growth_factor'), 0.5),
        ('AccumulativeAmpOptimWrapper', ('loss_scale', 'backoff_factor'), 2.0),
        ('AccumulativeAmpOptimWrapper', ('bn_momentum_correction',), 'False'),
        ('OpenPCDetOptimWrapperConstructor', ('optim_wrapper_cfg', 'optimizer', 'lr'), -1e-3),
        ('StepDecayLR', ('eta_min',), 5),
        ('CheckpointHook', ('max_keep_ckpt',), 3),
        ('ImageAug3D', ('rand_flip',), 'False'),
        ('ImageAug3D', ('resize_lim',), [0, 0]),
        ('BEVFusionGlobalRotScaleTrans', ('scale_ratio_range',), [0, 0]),
        ('BEVFusionGlobalRotScaleTrans', ('translation_std',), [-0.5, 0, 0]),
        ('GridMask', ('ratio',), 2),
        ('GridMask', ('prob',), -1),
        ('SeekableSampler', ('shuffle',), 'False'),
        ('BEVFusion', ('data_preprocessor', 'voxelize_cfg', 'voxel_size'), [1e-9, 0.3, 0.2]),
        ('BEVFusion', ('bbox_head',), None),
        ('LSSTransform', ('dbound',), [1.0, 60.0, 1e-9]),
        ('IoU3DCost', ('weight',), -0.25),
        ('CheckSample', ('image_modes',), ['RGBX255']),
        ('CheckSample', ('cameras',), 'CAM_FRONT'),
        ('SkipBadSamples', ('dataset',), []),
        ('SkippedSamplesHook', ('interval',), 2.5),
        ('NuScenesDataset', ('modality', 'use_lidar'), False),
        ('NuScenesDataset', ('indices',), 0),
        ('NuScenesDataset', ('test_mode',), 'False'),
        ('SwinTransformer', ('num_heads',), [3, 3]),
        ('SwinTransformer', ('drop_path_rate',), 1.0),
    ],
)
def test_what_was_accepted_and_never_could_work_is_refused(name, path, value, tmp_path):
    came, error = outcome(CASES[name], path, value, tmp_path)
    assert came == 'refused by name', error


def test_a_floor_that_openpcdet_raises_the_lr_to_stays_accepted():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1e-3)
    scheduler = PARAM_SCHEDULERS.build(dict(type='bevfusion_plugin.StepDecayLR', optimizer=optimizer, milestones=[1], eta_min=2e-3))
    assert scheduler.get_last_value() == [2e-3]


@pytest.mark.parametrize('hook', sorted(WITHOUT_ARGUMENTS))
def test_a_hook_without_arguments_refuses_any(hook):
    with pytest.raises(TypeError, match='oddity|takes no arguments'):
        HOOKS.build(dict(type=f'bevfusion_plugin.{hook}', oddity=1))


def test_a_config_of_pasted_objects_stays_as_it_was():
    db_sampler = dict(rate=1.0, sample_groups=dict(car=-2))
    with pytest.raises(ValueError, match='db_sampler.sample_groups.car must be an int >= 0, got -2'):
        TRANSFORMS.build(dict(type='bevfusion_plugin.ObjectSample', db_sampler=db_sampler))
    assert db_sampler == dict(rate=1.0, sample_groups=dict(car=-2))
