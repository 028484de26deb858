import copy

import numpy as np
import pytest
import torch
from mmengine.config import Config

from bevfusion_plugin.doctor.memory.synthetic_batch import BOXES, cameras_of, lidar_sweeps, real_sizes, surround_matrices, synthetic_batch
from bevfusion_plugin.ops.voxelize import mean_voxels


@pytest.fixture(scope='module')
def demo(request):
    return Config.fromfile(request.config.rootpath / 'configs/bevfusion_demo.py')


@pytest.fixture(scope='module')
def lidar(request):
    return Config.fromfile(request.config.rootpath / 'configs/bevfusion_lidar_4x4090.py')


def sweeps(share, seed=0, channels=5):
    return lidar_sweeps(share, channels, torch.Generator().manual_seed(seed))


def test_real_sizes_are_those_of_the_config(demo, lidar):
    assert real_sizes(demo, 3) == dict(samples=3, pixels=3 * 6 * 64 * 192, voxels=3 * 30_000)
    assert real_sizes(lidar, 2) == dict(samples=2, pixels=0, voxels=240_000)


def test_cameras_are_the_keys_of_the_training_set(demo, lidar):
    assert (cameras_of(demo), cameras_of(lidar)) == (6, 0)
    blind = copy.deepcopy(demo)
    blind.train_dataloader.dataset.dataset.data_prefix = dict(pts='samples/LIDAR_TOP')
    with pytest.raises(ValueError, match='name the cameras there, or in BEVLoad'):
        cameras_of(blind)


def test_a_full_turn_fills_as_many_voxels_as_nuscenes(lidar):
    voxels = lidar.model.data_preprocessor.voxelize_cfg
    points = sweeps(1.0)
    found = len(mean_voxels(points, voxels.voxel_size, voxels.point_cloud_range, 10, 10**6)[0])
    assert 90_000 < found < 140_000 and 200_000 < len(points) < 350_000


def test_a_sector_has_its_share_of_the_points_and_lies_in_it():
    points = sweeps(1 / 8)
    assert len(points) == pytest.approx(len(sweeps(1.0)) / 8, rel=0.1)
    walls = points[points[:, 2] > -1.5]  # the ground moves with the car
    angles = torch.atan2(walls[:, 1], walls[:, 0])
    assert angles.min() > -0.05 and angles.max() < np.pi / 4 + 0.05


def test_points_have_the_channels_asked_for_and_repeat_with_the_seed():
    assert sweeps(0.1, channels=4).shape[1] == 4
    assert torch.equal(sweeps(0.1), sweeps(0.1)) and not torch.equal(sweeps(0.1), sweeps(0.1, seed=1)[: len(sweeps(0.1))])


def test_cameras_look_outwards_all_round():
    matrices = surround_matrices(4, (64, 192))
    ahead = np.array([[10, 0, 0, 1.0], [0, 10, 0, 1], [-10, 0, 0, 1], [0, -10, 0, 1]])
    for lidar2img, point in zip(matrices['lidar2img'], ahead):
        u, v, depth, _ = lidar2img @ point
        assert (u / depth, v / depth, depth) == pytest.approx((96, 32, 10))
    left = matrices['lidar2img'][0] @ np.array([10, 5, 1.0, 1])  # left of and above the first camera's axis
    assert left[0] / left[2] < 96 and left[1] / left[2] < 32


def test_a_batch_is_as_the_data_preprocessor_takes_it(demo, lidar):
    batch = synthetic_batch(demo, 2, 3, 0.05)
    assert [images.shape for images in batch['inputs']['img']] == [(3, 3, 64, 192)] * 2
    assert len(batch['inputs']['points']) == len(batch['data_samples']) == 2
    sample = batch['data_samples'][0]
    assert len(sample.gt_instances_3d.bboxes_3d) == BOXES and sample.metainfo['cam2img'].shape == (3, 4, 4)
    assert 'img' not in synthetic_batch(lidar, 1, 0, 0.05)['inputs']
