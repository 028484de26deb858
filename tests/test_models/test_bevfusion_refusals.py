"""Batches and configs that the detector refuses, with what was wrong and the mend."""

import pytest
import torch
from detector_goldens import build_detector, losses_of, recorded_batch, without
from goldens import load_golden
from mmengine.config import ConfigDict

from bevfusion_plugin.registry import MODELS, build_nested


@pytest.fixture
def lidar_cam():
    golden = load_golden('e2e_lidar_cam')
    return build_detector(golden), recorded_batch(golden)


@pytest.mark.parametrize('key', ['lidar2img', 'cam2img', 'cam2lidar', 'img_aug_matrix', 'lidar_aug_matrix'])
def test_a_missing_matrix_is_an_error_in_training(lidar_cam, key):
    model, batch = lidar_cam
    batch['data_samples'][1] = without(batch['data_samples'][1], key)
    with pytest.raises(ValueError, match=f"'{key}' is missing in the meta info"):
        losses_of(model.train(), batch)


def test_lidar_aug_matrix_may_be_absent_when_testing_unaugmented_points_only(lidar_cam):
    model, batch = lidar_cam
    plain = dict(batch, data_samples=[without(s, 'lidar_aug_matrix') for s in batch['data_samples']])
    data = model.data_preprocessor(plain, training=False)
    assert len(model.predict(data['inputs'], data['data_samples'])) == 2
    moved = [without(s, 'lidar_aug_matrix', pcd_rotation=torch.eye(3)) for s in batch['data_samples']]
    with pytest.raises(ValueError, match="'lidar_aug_matrix' is missing"):
        model.predict(data['inputs'], moved)


def test_images_missing_for_a_camera_model_is_an_error(lidar_cam):
    model, batch = lidar_cam
    del batch['inputs']['img']
    with pytest.raises(ValueError, match='the batch has no images'):
        losses_of(model, batch)


def test_a_batch_is_checked_before_it_goes_to_the_device(lidar_cam):
    model, batch = lidar_cam
    batch['data_samples'] = [without(sample, sample_idx=index) for index, sample in enumerate(batch['data_samples'], start=7)]
    batch['inputs']['points'][1][5, 3] = float('nan')
    with pytest.raises(ValueError, match='sample 8: 1 of .* points are not finite'):
        losses_of(model, batch)


@pytest.mark.parametrize(
    'changes, message',
    [
        (dict(view_transform=None), 'view_transform is missing'),
        (
            dict(data_preprocessor=dict(type='Det3DDataPreprocessor')),
            "data_preprocessor must be a dict with voxelize_cfg, got {'type': 'Det3DDataPreprocessor'}; voxelize_cfg holds voxel_size",
        ),
        (dict(data_preprocessor={}), 'data_preprocessor must be a dict with voxelize_cfg, got {}'),
        (dict(fusion_layer=None), 'needs fusion_layer beside pts_middle_encoder, but fusion_layer is missing'),
        (dict(img_backbone=None, img_neck=None, view_transform=None), 'fusion_layer must be None without the camera branch'),
        (
            dict(img_backbone=None, img_neck=None, view_transform=None, fusion_layer=None, pts_middle_encoder=None),
            'pts_middle_encoder must be a dict with type, got None; .*needs cameras',
        ),
    ],
)
def test_incomplete_configs_are_refused(changes, message):
    cfg = ConfigDict(load_golden('e2e_lidar_cam').meta['cfg'])
    for key, value in changes.items():
        cfg[key] = value
    with pytest.raises(ValueError, match=message):
        build_nested(MODELS, cfg)


@pytest.mark.parametrize(
    'name, value, message',
    [
        ('max_voxels', 0, 'max_voxels must be an int >= 1, got 0; or write two, for training and for testing'),
        ('max_voxels', (-1, -1), r'max_voxels must be 2 finite numbers >= 1, got \(-1, -1\)'),
        ('max_voxels', [9, 9, 9], r'max_voxels must be 2 finite numbers >= 1, got \[9, 9, 9\]'),
        ('max_num_points', (10, 10), r'max_num_points must be an int >= 1, got \(10, 10\)'),
        ('max_num_points', -1, 'max_num_points must be an int >= 1, got -1'),
        ('voxel_size', 0.3, 'voxel_size must be 3 finite numbers, got 0.3'),
        ('mean', 123.675, 'data_preprocessor.mean must be finite numbers, got 123.675; they are for red, green and blue'),
        ('mean', [1.0, 2.0], r'data_preprocessor.mean must be 3 numbers or 1, got \[1.0, 2.0\]'),
        ('std', [58.4, 0.0, 57.4], r'data_preprocessor.std must be finite numbers > 0, got \[58.4, 0.0, 57.4\]'),
        ('pad_size_divisor', 0, 'data_preprocessor.pad_size_divisor must be an int >= 1, got 0'),
        ('pad_size_divisor', (32, 32), r'data_preprocessor.pad_size_divisor must be an int >= 1, got \(32, 32\)'),
        ('pad_value', 'black', "data_preprocessor.pad_value must be a finite number, got 'black'"),
        ('non_blocking', 'False', "data_preprocessor.non_blocking must be True or False, got 'False'"),
        ('bgr_to_rgb', 1, 'data_preprocessor.bgr_to_rgb must be True or False, got 1'),
    ],
)
def test_settings_of_the_data_preprocessor_are_refused_by_name_when_the_model_is_built(name, value, message):
    cfg = ConfigDict(load_golden('e2e_lidar_cam').meta['cfg'])
    where = cfg.data_preprocessor if name not in cfg.data_preprocessor.voxelize_cfg else cfg.data_preprocessor.voxelize_cfg
    where[name] = value
    with pytest.raises(ValueError, match=message):
        build_nested(MODELS, cfg)


def test_weights_in_half_precision_are_refused_with_what_to_do_instead(lidar_cam):
    model, batch = lidar_cam
    for convert in (model.half, model.bfloat16):
        with pytest.raises(ValueError, match='cannot have weights in half precision.*within torch.autocast.*tools/test.py --amp float16'):
            convert()
    assert next(model.parameters()).dtype == torch.float32
    with pytest.raises(ValueError, match='cannot have weights in half precision'):
        losses_of(model.to(torch.float16), batch)


def test_unknown_component_is_named():
    cfg = ConfigDict(load_golden('e2e_lidar').meta['cfg'])
    cfg.pts_backbone.type = 'NoSuchBackbone'
    with pytest.raises(KeyError, match='NoSuchBackbone'):
        build_nested(MODELS, cfg)
