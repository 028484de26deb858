"""Augmentation of points and boxes against the recorded reference, and the matrix that records it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from goldens import Golden, assert_close, load_golden
from mmdet3d.structures import LiDARInstance3DBoxes, LiDARPoints

from bevfusion_plugin.datasets.lidar_aug_3d import BEVFusionGlobalRotScaleTrans, BEVFusionRandomFlip3D
from bevfusion_plugin.registry import TRANSFORMS

RANGES = dict(scale_ratio_range=[0.9, 1.1], rot_range=[-0.78539816, 0.78539816], translation_std=0.5)
TRANSFORM_OF = {
    'global_rot_scale_trans': 'BEVFusionGlobalRotScaleTrans',
    'global_rot_scale_trans_preset': 'BEVFusionGlobalRotScaleTrans',
    'flip3d': 'BEVFusionRandomFlip3D',
    'flip3d_after_rts_with_mask': 'BEVFusionRandomFlip3D',
}


def scene(points: torch.Tensor, boxes: torch.Tensor) -> dict:
    return dict(
        points=LiDARPoints(points.clone(), points_dim=points.shape[1]),
        gt_bboxes_3d=LiDARInstance3DBoxes(boxes.clone(), box_dim=boxes.shape[1]),
    )


def random_scene(points: int = 30, boxes: int = 4) -> dict:
    generator = torch.Generator().manual_seed(0)
    sizes = torch.tensor([20.0, 20, 2, 4, 2, 1.5, 3, 2, 2])
    return scene(torch.randn(points, 5, generator=generator) * 10, (torch.rand(boxes, 9, generator=generator) + 0.1) * sizes)


def as_array(value) -> np.ndarray:
    return np.asarray(getattr(value, 'tensor', value))


def replay(golden: Golden, seed: int, name: str) -> dict:
    results = scene(golden['in/points'], golden['in/boxes'])
    for key in ('lidar_aug_matrix', 'gt_masks_bev'):
        if f'in/{key}' in golden.arrays:
            results[key] = golden.arrays[f'in/{key}'].copy()
    results.update(golden.meta.get('preset') or {})
    transform = TRANSFORMS.build(dict(type=f'bevfusion_plugin.{TRANSFORM_OF[name]}', **golden.meta.get('cfg', {})))
    np.random.seed(seed)
    return transform(results)


@pytest.mark.parametrize('name', TRANSFORM_OF)
def test_results_and_random_draws_equal_the_reference(name):
    golden = load_golden(name)
    for seed in golden.meta['seeds']:
        results = replay(golden, seed, name)
        np.testing.assert_array_equal(np.random.rand(2), golden.arrays[f'seed{seed}/rng_tail'])
        results['boxes'] = results['gt_bboxes_3d']
        for key in golden.group(f'seed{seed}/').keys() - {'rng_tail'}:
            expected, actual = golden.arrays[f'seed{seed}/{key}'], as_array(results[key])
            assert actual.dtype == expected.dtype, key
            assert_close(torch.from_numpy(np.array(actual)), golden[f'seed{seed}/{key}'], 1e-6, f'{name} {seed} {key}')
    if 'transformation_3d_flow' in golden.meta:
        assert results['transformation_3d_flow'] == golden.meta['transformation_3d_flow']


def test_matrix_of_both_transforms_maps_the_old_points_to_the_new_ones():
    results = random_scene()
    before = results['points'].tensor.clone()
    for seed in range(6):
        np.random.seed(seed)
        after = BEVFusionRandomFlip3D()(BEVFusionGlobalRotScaleTrans(**RANGES)(dict(results)))
        matrix = torch.from_numpy(after['lidar_aug_matrix']).float()
        expected = before[:, :3] @ matrix[:3, :3].T + matrix[:3, 3]
        torch.testing.assert_close(after['points'].tensor[:, :3], expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize('seed', range(4))  # all four choices of the two flips
def test_caller_keeps_its_points_boxes_matrix_and_flow(seed):
    np.random.seed(seed)
    results = dict(random_scene(), lidar_aug_matrix=np.diag([2.0, 2.0, 2.0, 1.0]), transformation_3d_flow=['HF'])
    held = dict(results)
    before = {key: as_array(value).copy() for key, value in held.items()}
    BEVFusionRandomFlip3D()(BEVFusionGlobalRotScaleTrans(**RANGES)(results))
    for key, value in held.items():
        np.testing.assert_array_equal(as_array(value), before[key], key)


def test_flip_writes_the_identity_when_nothing_is_flipped():
    np.random.seed(3)  # neither direction, by the recorded reference
    results = BEVFusionRandomFlip3D()(random_scene())
    np.testing.assert_array_equal(results['lidar_aug_matrix'], np.eye(4))


@pytest.mark.parametrize('points, boxes', [(0, 4), (30, 0), (0, 0)])
def test_frames_without_points_or_boxes_pass(points, boxes):
    results = BEVFusionGlobalRotScaleTrans(**RANGES)(random_scene(points, boxes))
    results = BEVFusionRandomFlip3D()(results)
    assert len(results['points']) == points and len(results['gt_bboxes_3d']) == boxes
    assert results['lidar_aug_matrix'].shape == (4, 4)


def test_boxes_are_optional():
    results = random_scene()
    del results['gt_bboxes_3d']
    results = BEVFusionRandomFlip3D()(BEVFusionGlobalRotScaleTrans(**RANGES)(results))
    assert 'gt_bboxes_3d' not in results and results['lidar_aug_matrix'].dtype == np.float64


@pytest.mark.parametrize('transform', [BEVFusionGlobalRotScaleTrans(**RANGES), BEVFusionRandomFlip3D()])
def test_missing_points_name_the_loading_step(transform):
    with pytest.raises(KeyError, match='LoadPointsFromFile'):
        transform({})
