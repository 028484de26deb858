"""The lidar-camera pipelines of BEVFusion on mmdet3d's NuScenesDataset, against the recorded reference."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch
from goldens import Golden, assert_close, load_golden, nuscenes_sample
from mmdet3d.datasets import NuScenesDataset

RANGE = [-54.0, -54.0, -5.0, 54.0, 54.0, 3.0]
CAMERAS = ['CAM_FRONT', 'CAM_FRONT_RIGHT', 'CAM_FRONT_LEFT', 'CAM_BACK', 'CAM_BACK_LEFT', 'CAM_BACK_RIGHT']
LOADING = [
    dict(type='bevfusion_plugin.BEVLoadMultiViewImageFromFiles', to_float32=True, color_type='color'),
    dict(type='mmdet3d.LoadPointsFromFile', coord_type='LIDAR', load_dim=5, use_dim=5),
    dict(type='mmdet3d.LoadPointsFromMultiSweeps', sweeps_num=9, load_dim=5, use_dim=5, pad_empty_sweeps=True, remove_close=True),
]
CALIBRATION = [
    'cam2img',
    'ori_cam2img',
    'lidar2cam',
    'lidar2img',
    'cam2lidar',
    'ori_lidar2img',
    'img_aug_matrix',
    'box_type_3d',
    'sample_idx',
    'lidar_path',
    'img_path',
    'num_pts_feats',
]


def image_aug(train: bool) -> dict:
    return dict(
        type='bevfusion_plugin.ImageAug3D',
        final_dim=[256, 704],
        bot_pct_lim=[0.0, 0.0],
        is_train=train,
        resize_lim=[0.38, 0.55] if train else [0.48, 0.48],
        rot_lim=[-5.4, 5.4] if train else [0.0, 0.0],
        rand_flip=train,
    )


def train_pipeline(classes: list[str]) -> list[dict]:
    return [
        *copy.deepcopy(LOADING),
        dict(type='mmdet3d.LoadAnnotations3D', with_bbox_3d=True, with_label_3d=True, with_attr_label=False),
        image_aug(train=True),
        dict(
            type='bevfusion_plugin.BEVFusionGlobalRotScaleTrans',
            scale_ratio_range=[0.9, 1.1],
            rot_range=[-0.78539816, 0.78539816],
            translation_std=0.5,
        ),
        dict(type='bevfusion_plugin.BEVFusionRandomFlip3D'),
        dict(type='mmdet3d.PointsRangeFilter', point_cloud_range=RANGE),
        dict(type='mmdet3d.ObjectRangeFilter', point_cloud_range=RANGE),
        dict(type='mmdet3d.ObjectNameFilter', classes=classes),
        dict(
            type='bevfusion_plugin.GridMask',
            use_h=True,
            use_w=True,
            max_epoch=6,
            rotate=1,
            offset=False,
            ratio=0.5,
            mode=1,
            prob=0.0,
            fixed_prob=True,
        ),
        dict(type='mmdet3d.PointShuffle'),
        dict(
            type='mmdet3d.Pack3DDetInputs',
            keys=['points', 'img', 'gt_bboxes_3d', 'gt_labels_3d', 'gt_bboxes', 'gt_labels'],
            meta_keys=[*CALIBRATION, 'transformation_3d_flow', 'pcd_rotation', 'pcd_scale_factor', 'pcd_trans', 'lidar_aug_matrix'],
        ),
    ]


def eval_pipeline() -> list[dict]:
    return [
        *copy.deepcopy(LOADING),
        image_aug(train=False),
        dict(type='mmdet3d.PointsRangeFilter', point_cloud_range=RANGE),
        dict(type='mmdet3d.Pack3DDetInputs', keys=['img', 'points', 'gt_bboxes_3d', 'gt_labels_3d'], meta_keys=CALIBRATION),
    ]


def dataset(classes: list[str], pipeline: list[dict], test_mode: bool) -> NuScenesDataset:
    return NuScenesDataset(
        data_root=str(nuscenes_sample()),
        ann_file='nuscenes_infos_val.pkl' if test_mode else 'nuscenes_infos_train.pkl',
        data_prefix=dict(pts='samples/LIDAR_TOP', sweeps='sweeps/LIDAR_TOP', **{c: f'samples/{c}' for c in CAMERAS}),
        modality=dict(use_lidar=True, use_camera=True),
        metainfo=dict(classes=classes),
        pipeline=pipeline,
        test_mode=test_mode,
        use_valid_flag=True,
        box_type_3d='LiDAR',
    )


def run(golden: Golden, seed: int, to_float32: bool = True) -> dict:
    classes, train = golden.meta['class_order'], golden.meta['what'].startswith('train')
    pipeline = train_pipeline(classes) if train else eval_pipeline()
    pipeline[0]['to_float32'] = to_float32
    data = dataset(classes, pipeline, test_mode=not train)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    return data[0]


def check_points(points: torch.Tensor, golden: Golden, seed: str) -> None:
    assert len(points) == golden.meta['per_seed'][seed]['n_points']
    assert_close(points[:32], golden[f'{seed}/points_first32'], 1e-5)
    assert_close(points.double().sum(0), golden[f'{seed}/points_sum'], 1e-5)
    assert_close((points.double() ** 2).sum(0), golden[f'{seed}/points_sqsum'], 1e-5)
    assert_close(points.amin(0), golden[f'{seed}/points_min'], 1e-5)
    assert_close(points.amax(0), golden[f'{seed}/points_max'], 1e-5)
    rows = points.numpy()
    rows = rows[np.lexsort(rows.T[::-1])][::5000]
    assert_close(torch.from_numpy(rows), golden[f'{seed}/points_sorted_every_5000'], 1e-5)


def check_images(images: torch.Tensor, golden: Golden, seed: str) -> None:
    assert images.dtype == torch.float32 and list(images.shape) == golden.meta['per_seed'][seed]['img_shape']
    rows, columns = golden[f'{seed}/pixels_index'].T
    pixels = images[:, :, rows, columns].permute(0, 2, 1)  # (cameras, positions, RGB)
    assert (pixels - golden[f'{seed}/pixels_value']).abs().max() <= 1  # JPEG decoders differ by a grey level
    assert_close(images.double().mean((2, 3)), golden[f'{seed}/img_mean'], 1e-4)


@pytest.mark.parametrize(
    'name, seed', [('pipeline_train_real_frame', 0), ('pipeline_train_real_frame', 1), ('pipeline_test_real_frame', 0)]
)
def test_real_frame_comes_out_as_in_the_reference(name, seed):
    golden, key = load_golden(name), f'seed{seed}'
    packed = run(golden, seed)
    np.testing.assert_array_equal(np.random.rand(2), golden.arrays[f'{key}/rng_tail'])
    sample, facts = packed['data_samples'], golden.meta['per_seed'][key]
    assert sorted(sample.metainfo) == facts['keys'] and sorted(packed['inputs']) == facts['inputs']
    check_points(packed['inputs']['points'], golden, key)
    check_images(packed['inputs']['img'], golden, key)
    for meta in set(facts['keys']) & {name.split('/')[1] for name in golden.arrays}:
        expected, actual = golden.arrays[f'{key}/{meta}'], np.asarray(sample.metainfo[meta])
        assert actual.dtype == expected.dtype, meta
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max(), err_msg=meta)
    if 'n_gt' in facts:
        assert sample.transformation_3d_flow == facts['transformation_3d_flow']
        assert_close(sample.gt_instances_3d.bboxes_3d.tensor, golden[f'{key}/gt_boxes'], 1e-5)
        np.testing.assert_array_equal(sample.gt_instances_3d.labels_3d, golden.arrays[f'{key}/gt_labels'])


def test_loading_as_uint8_gives_the_very_same_images():
    golden = load_golden('pipeline_train_real_frame')
    images = [run(golden, 0, to_float32)['inputs']['img'] for to_float32 in (False, True)]
    assert images[0].dtype == torch.float32
    torch.testing.assert_close(*images, rtol=0, atol=0)


def test_reading_a_sample_twice_gives_the_same_points_and_boxes():
    golden = load_golden('pipeline_train_real_frame')
    classes = golden.meta['class_order']
    data = dataset(classes, train_pipeline(classes), test_mode=False)
    samples = []
    for _ in range(2):
        np.random.seed(0)
        torch.manual_seed(0)
        samples.append(data[0])
    torch.testing.assert_close(samples[0]['inputs']['points'], samples[1]['inputs']['points'], rtol=0, atol=0)
    torch.testing.assert_close(*(s['data_samples'].gt_instances_3d.bboxes_3d.tensor for s in samples), rtol=0, atol=0)
