"""What moved a cloud is undone before image features are placed, whoever moved it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmdet3d.datasets.transforms import GlobalRotScaleTrans, RandomFlip3D
from mmdet3d.structures import LiDARPoints

from bevfusion_plugin.datasets import BEVFusionGlobalRotScaleTrans, BEVFusionRandomFlip3D
from bevfusion_plugin.models.camera.view_matrices import stack_view_matrices

EYES = {name: np.eye(4)[None] for name in ('lidar2img', 'cam2img', 'cam2lidar', 'img_aug_matrix')}
PLACES = torch.tensor([[10.0, 5.0, 1.0], [-3.0, 7.0, 0.0], [1.0, -2.0, -1.0]])
ROTATION = dict(rot_range=[0.3, 0.3], scale_ratio_range=[1.1, 1.1], translation_std=[0.5, 0.4, 0.3])
BOTH = dict(flip_ratio_bev_horizontal=1.0, flip_ratio_bev_vertical=1.0, sync_2d=False)


def moved(*transforms):
    """The meta dict, and the points as they went in and came out."""
    np.random.seed(0)
    results = dict(points=LiDARPoints(PLACES.clone(), points_dim=3))
    for transform in transforms:
        results = transform(results)
    return dict(EYES, **{name: value for name, value in results.items() if name != 'points'}), results['points'].tensor


def lidar_aug(meta, training=False):
    return stack_view_matrices([meta], training).lidar_aug_matrix[0]


def test_a_cloud_mirrored_by_mmdet3d_when_testing_is_mirrored_back():
    meta, points = moved(RandomFlip3D(flip_ratio_bev_horizontal=1.0, sync_2d=False))
    assert points[0].tolist() == [10, -5, 1]
    assert (lidar_aug(meta) @ torch.tensor([10.0, 5.0, 1.0, 1.0])).tolist() == [10, -5, 1, 1]


@pytest.mark.parametrize(
    'transforms',
    [
        [RandomFlip3D(**BOTH)],
        [GlobalRotScaleTrans(**ROTATION)],
        [GlobalRotScaleTrans(**ROTATION), RandomFlip3D(**BOTH)],
        [RandomFlip3D(**BOTH), GlobalRotScaleTrans(**ROTATION)],
        [BEVFusionGlobalRotScaleTrans(**ROTATION)],
        [RandomFlip3D(flip_ratio_bev_vertical=1.0, sync_2d=False), GlobalRotScaleTrans(**ROTATION), RandomFlip3D(sync_2d=False)],
    ],
)
def test_the_matrix_does_to_the_points_what_the_transforms_did(transforms):
    meta, points = moved(*transforms)
    matrix = lidar_aug(meta)
    assert torch.allclose(PLACES @ matrix[:3, :3].T + matrix[:3, 3], points, atol=1e-5)


def test_points_that_nothing_moved_have_the_identity():
    for meta in (
        EYES,
        dict(EYES, transformation_3d_flow=[]),
        dict(EYES, pcd_horizontal_flip=False, pcd_vertical_flip=False),
        moved(RandomFlip3D(sync_2d=False))[0],
    ):
        assert torch.equal(lidar_aug(meta), torch.eye(4))


@pytest.mark.parametrize(
    'trace', [dict(pcd_horizontal_flip=True), dict(pcd_vertical_flip=True), dict(pcd_rotation=np.eye(3)), dict(pcd_trans=np.zeros(3))]
)
def test_traces_without_their_order_are_an_error(trace):
    with pytest.raises(ValueError, match="'lidar_aug_matrix' is missing"):
        lidar_aug(dict(EYES, **trace))


@pytest.mark.parametrize(
    'flow, message',
    [(['R', 'T', 'S', 'R', 'S', 'T'], 'what R did is not known'), (['X'], 'what X did is not known'), (['R'], "'pcd_rotation' is missing")],
)
def test_a_flow_that_cannot_be_followed_is_an_error(flow, message):
    with pytest.raises(ValueError, match=message):
        lidar_aug(dict(EYES, transformation_3d_flow=flow))


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('foreign', [RandomFlip3D(**BOTH), GlobalRotScaleTrans(**ROTATION)])
def test_what_mmdet3d_did_beside_a_recorded_matrix_is_an_error(training, foreign):
    meta, _ = moved(BEVFusionRandomFlip3D(), foreign)
    with pytest.raises(ValueError, match='of which lidar_aug_matrix knows only R, T, S in this order; use bevfusion_plugin.BEVFusion'):
        lidar_aug(meta, training)
    meta, points = moved(BEVFusionGlobalRotScaleTrans(**ROTATION), BEVFusionRandomFlip3D(), BEVFusionGlobalRotScaleTrans(**ROTATION))
    matrix = lidar_aug(meta, training)
    assert torch.allclose(PLACES @ matrix[:3, :3].T + matrix[:3, 3], points, atol=1e-5)
