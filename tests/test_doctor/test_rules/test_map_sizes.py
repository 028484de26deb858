from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from reference_recipes import reference_fusion, reference_lidar

from bevfusion_plugin.doctor.case import Case
from bevfusion_plugin.doctor.examination import examine
from bevfusion_plugin.doctor.mend import changed_case, changes_of, mend_all
from bevfusion_plugin.doctor.reading.voxel_grid import encoder_cells, neck_levels
from bevfusion_plugin.doctor.rules.map_sizes import check_divisible, check_height_channels
from bevfusion_plugin.ops.map_size import cells_after_strides, strided_cells

CONFIGS = Path(__file__).parents[3] / 'configs'


def with_range(half, voxel, name='bevfusion_lidar_4x4090.py'):
    cfg = Config.fromfile(CONFIGS / name)
    settings = cfg.model.data_preprocessor.voxelize_cfg
    settings.point_cloud_range = [-half, -half, -5.0, half, half, 3.0]
    settings.voxel_size = [voxel, voxel, 0.2]
    return cfg


def mended(cfg):
    case = Case(cfg, 4, quick=True)
    return changed_case(case, changes_of(mend_all(case)))


@pytest.mark.parametrize('cells', [1, 7, 8, 53, 424, 427, 1440])
def test_map_sizes_are_those_of_padded_convolutions(cells):
    volume = torch.zeros(1, 1, cells, 1)
    conv = torch.nn.Conv2d(1, 1, 3, 2, 1)
    assert strided_cells(cells, 3, 2, 1) == conv(volume).shape[2] == cells_after_strides(cells, 2)
    for _ in range(3):
        volume = conv(volume)
    assert cells_after_strides(cells, 8) == volume.shape[2]


@pytest.mark.parametrize('make', [reference_fusion, reference_lidar])
def test_the_reference_sizes_fit(make):
    case = Case(make())
    assert not [*check_divisible(case), *check_height_channels(case)]
    assert encoder_cells(case.cfg.model.pts_middle_encoder) == [180, 180, 2]
    assert neck_levels(case.cfg, 180) == [180, 180]


def test_a_map_that_reaches_beyond_the_range_trains_and_is_named():
    (found,) = check_divisible(Case(with_range(48.0, 0.225)))  # 427 voxels, a map of 54 cells
    assert found.severity == 'warning' and '427 voxels along x' in found.message and '-48.6 to 48.6 m' in found.mend


def test_levels_that_do_not_fit_get_the_nearest_range():
    cfg = with_range(53 * 8 * 0.1 / 2, 0.1)  # 424 voxels: levels of 53 and 54 cells
    (found,) = check_divisible(Case(cfg))
    assert found.severity is None and '53, 54' in found.message
    case = mended(cfg)
    assert not examine(case, 'error')
    head = case.cfg.model.bbox_head
    assert head.train_cfg.grid_size[:2] == [416, 416] and case.cfg.model.pts_middle_encoder.sparse_shape == [416, 416, 41]


@pytest.mark.parametrize('half, voxel', [(48.0, 0.225), (21.2, 0.1), (50.0, 0.2), (33.3, 0.15)])
@pytest.mark.parametrize('name', ['bevfusion_lidar_4x4090.py', 'bevfusion_4x4090.py'])
def test_a_mended_range_has_one_map_size_everywhere(half, voxel, name):
    cfg = mended(with_range(half, voxel, name)).cfg
    model = cfg.model
    x = encoder_cells(model.pts_middle_encoder)[0]
    from bevfusion_plugin.models.head.transfusion_targets import map_cells

    assert set(neck_levels(cfg, x)) == {x} and map_cells(model.bbox_head.train_cfg)[0] == map_cells(model.bbox_head.test_cfg)[0] == x
    if 'view_transform' in model:
        from bevfusion_plugin.models.camera.frustum import grid_from_bounds

        view = model.view_transform
        nx = grid_from_bounds(view.xbound, view.ybound, view.zbound)[2]
        assert nx[0] == nx[1] == x * view.downsample


def test_channels_follow_from_the_height():
    cfg = Config.fromfile(CONFIGS / 'bevfusion_lidar_4x4090.py')
    cfg.model.data_preprocessor.voxelize_cfg.voxel_size[2] = 0.1
    cfg.model.pts_middle_encoder.sparse_shape[2] = 81
    (found,) = check_height_channels(Case(cfg))
    channels = 128 * encoder_cells(cfg.model.pts_middle_encoder)[2]
    assert f'gives {channels} channels' in found.message and 'takes 256' in found.message
    assert found.changes == {'model.pts_backbone.in_channels': channels}


def test_with_cameras_the_fuser_takes_the_channels():
    cfg = Config.fromfile(CONFIGS / 'bevfusion_4x4090.py')
    cfg.model.pts_middle_encoder.sparse_shape[2] = 81
    (found,) = check_height_channels(Case(cfg))
    assert list(found.changes) == ['model.fusion_layer.in_channels']


def test_a_grid_too_flat_for_the_encoder_is_named():
    cfg = Config.fromfile(CONFIGS / 'bevfusion_lidar_4x4090.py')
    cfg.model.pts_middle_encoder.sparse_shape[2] = 9
    (found,) = check_height_channels(Case(cfg))
    assert 'too flat' in found.message
