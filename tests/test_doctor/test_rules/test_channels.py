import re
from pathlib import Path

import pytest
from mmengine.config import Config
from reference_recipes import reference_fusion, reference_lidar

from bevfusion_plugin.doctor.case import Case
from bevfusion_plugin.doctor.mend import changed
from bevfusion_plugin.doctor.rules.map_sizes import check_channels

CONFIGS = Path(__file__).parents[3] / 'configs'


def problems(cfg):
    return list(check_channels(Case(cfg)))


@pytest.mark.parametrize('name', sorted(path.name for path in CONFIGS.glob('*.py')))
def test_the_recipes_fit(name):
    assert not problems(Config.fromfile(CONFIGS / name))


@pytest.mark.parametrize('make', [reference_fusion, reference_lidar])
def test_models_of_other_projects_are_left_alone(make):
    assert not problems(make())


@pytest.mark.parametrize(
    'key, value, words',
    [
        ('model.img_neck.out_channels', 32, 'model.img_neck gives 32 channels .*model.view_transform.in_channels is 48'),
        ('model.view_transform.out_channels', 16, r'model.view_transform gives 16 .*model.fusion_layer.in_channels\[0\] is 32'),
        ('model.fusion_layer.out_channels', 96, 'model.fusion_layer gives 96 .*model.pts_backbone.in_channels is 64'),
        ('model.pts_backbone.in_channels', 96, 'model.fusion_layer gives 64 .*model.pts_backbone.in_channels is 96'),
        ('model.pts_backbone.out_channels', [32, 48], r'gives \[32, 48\] .*model.pts_neck.in_channels is \[32, 64\]'),
        ('model.pts_neck.out_channels', [32, 16], 'model.pts_neck gives 48 .*model.bbox_head.in_channels is 64'),
    ],
)
def test_what_does_not_fit_is_named_with_both_numbers_and_mended(key, value, words):
    cfg = changed(Config.fromfile(CONFIGS / 'bevfusion_demo.py'), {key: value})
    (problem,) = problems(cfg)
    assert re.search(words, problem.message), problem.message
    assert not problems(changed(cfg, problem.changes))


@pytest.mark.parametrize('value', [None, 'many', [], 0, [1, 'x'], dict()])
def test_nonsense_is_left_to_those_who_build(value):
    for key in ('model.view_transform.out_channels', 'model.fusion_layer.in_channels', 'model.pts_neck', 'model.pts_backbone.out_channels'):
        problems(changed(Config.fromfile(CONFIGS / 'bevfusion_demo.py'), {key: value}))
