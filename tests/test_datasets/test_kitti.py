"""mmdet3d's KITTI infos through our transforms: four cameras are listed, one has a picture, boxes have no velocity."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from mmengine.registry import DATASETS, init_default_scope
from PIL import Image

from bevfusion_plugin.datasets import BadSample

LIDAR2CAM = [[0.0, -1, 0, 0], [0, 0, -1, -0.08], [1, 0, 0, -0.27], [0, 0, 0, 1]]
CAM2IMG = [[721.5, 0, 609.6, 44.9], [0, 721.5, 172.9, 0.2], [0, 0, 1, 0.003], [0, 0, 0, 1]]
PIPELINE = [
    dict(type='bevfusion_plugin.CheckSample', point_cloud_range=[0, -40, -3, 70.4, 40, 1]),
    dict(type='bevfusion_plugin.BEVLoadMultiViewImageFromFiles', color_type='color'),
    dict(type='LoadPointsFromFile', coord_type='LIDAR', load_dim=4, use_dim=4),
    dict(type='LoadAnnotations3D'),
    dict(
        type='bevfusion_plugin.ImageAug3D',
        final_dim=[128, 384],
        resize_lim=[0.31, 0.31],
        bot_pct_lim=[0, 0],
        rot_lim=[0, 0],
        rand_flip=False,
        is_train=False,
    ),
    dict(type='bevfusion_plugin.BEVFusionRandomFlip3D'),
    dict(
        type='Pack3DDetInputs',
        keys=['points', 'img', 'gt_bboxes_3d', 'gt_labels_3d'],
        meta_keys=['lidar2img', 'img_aug_matrix', 'sample_idx'],
    ),
]


@pytest.fixture
def kitti(tmp_path):
    """A function that writes the set with these images and gives its data set."""

    def build(**images):
        (tmp_path / 'velodyne').mkdir()
        (tmp_path / 'image_2').mkdir()
        np.random.default_rng(0).uniform([1, -30, -2, 0], [60, 30, 1, 1], (500, 4)).astype(np.float32).tofile(tmp_path / 'velodyne/0.bin')
        Image.new('RGB', (1242, 375), (90, 100, 110)).save(tmp_path / 'image_2/0.png')
        cameras = {name: dict(cam2img=CAM2IMG) for name in ('CAM0', 'CAM1', 'CAM2', 'CAM3')}
        cameras['CAM2'].update(
            img_path='0.png', height=375, width=1242, lidar2cam=LIDAR2CAM, lidar2img=(np.array(CAM2IMG) @ LIDAR2CAM).tolist()
        )
        box = dict(
            bbox_3d=[1.8, 1.5, 20.0, 3.9, 1.6, 1.5, -1.6],
            bbox_label_3d=2,
            bbox_label=2,
            bbox=[500.0, 150, 600, 200],
            depth=20.0,
            center_2d=[550.0, 175],
            num_lidar_pts=9,
        )
        info = dict(
            sample_idx=0,
            images=dict(cameras, R0_rect=np.eye(4).tolist(), **images),
            instances=[box],
            lidar_points=dict(num_pts_feats=4, lidar_path='0.bin', Tr_velo_to_cam=LIDAR2CAM, Tr_imu_to_velo=np.eye(4).tolist()),
        )
        categories = dict(Pedestrian=0, Cyclist=1, Car=2, Van=3, Truck=4, Person_sitting=5, Tram=6, Misc=7)
        infos = dict(metainfo=dict(categories=categories), data_list=[info])
        (tmp_path / 'kitti_infos_train.pkl').write_bytes(pickle.dumps(infos))
        init_default_scope('mmdet3d')
        return DATASETS.build(
            dict(
                type='KittiDataset',
                data_root=str(tmp_path),
                ann_file='kitti_infos_train.pkl',
                data_prefix=dict(pts='velodyne', CAM2='image_2'),
                modality=dict(use_lidar=True, use_camera=True),
                metainfo=dict(classes=['Pedestrian', 'Cyclist', 'Car']),
                pipeline=PIPELINE,
            )
        )

    return build


def test_kittis_infos_train_as_they_are(kitti):
    sample = kitti()[0]
    assert sample['inputs']['img'].shape == (1, 3, 128, 384) and sample['inputs']['points'].shape == (500, 4)
    assert sample['data_samples'].gt_instances_3d.bboxes_3d.tensor.shape == (1, 7)
    assert sample['data_samples'].gt_instances_3d.labels_3d.tolist() == [2]


def test_an_image_of_another_size_than_the_info_file_says_is_named(kitti, tmp_path):
    data = kitti()
    Image.new('RGB', (1224, 370)).save(tmp_path / 'image_2/0.png')
    with pytest.raises(BadSample, match=r'image_2/0.png is 1224 x 370 pixels, and the info file says 1242 x 375'):
        data[0]
