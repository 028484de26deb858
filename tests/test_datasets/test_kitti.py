"""mmdet3d's KITTI infos through our transforms: four cameras are listed, one has a picture, boxes have no velocity."""

from __future__ import annotations

import pytest
from custom_data import write_kitti_data
from mmengine.registry import DATASETS, init_default_scope
from PIL import Image

from bevfusion_plugin.datasets import BadSample

PIPELINE = [
    dict(type='bevfusion_plugin.CheckSample', point_cloud_range=[0, -40, -3, 70.4, 40, 1]),
    dict(type='bevfusion_plugin.BEVLoadMultiViewImageFromFiles', color_type='color'),
    dict(type='LoadPointsFromFile', coord_type='LIDAR', load_dim=4, use_dim=4),
    dict(type='LoadAnnotations3D'),
    dict(
        type='bevfusion_plugin.ImageAug3D',
        final_dim=[64, 160],
        resize_lim=[0.5, 0.5],
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
    """The data set of one frame."""
    write_kitti_data(tmp_path)
    init_default_scope('mmdet3d')
    return DATASETS.build(
        dict(
            type='KittiDataset',
            data_root=str(tmp_path),
            ann_file='kitti_infos_train.pkl',
            data_prefix=dict(pts='training/velodyne', CAM2='training/image_2'),
            modality=dict(use_lidar=True, use_camera=True),
            metainfo=dict(classes=['Pedestrian', 'Cyclist', 'Car']),
            pipeline=PIPELINE,
        )
    )


def test_kittis_infos_train_as_they_are(kitti):
    sample = kitti[0]
    assert sample['inputs']['img'].shape == (1, 3, 64, 160) and sample['inputs']['points'].shape == (500, 4)
    assert sample['data_samples'].gt_instances_3d.bboxes_3d.tensor.shape == (1, 7)
    assert sample['data_samples'].gt_instances_3d.labels_3d.tolist() == [2]


def test_an_image_of_another_size_than_the_info_file_says_is_named(kitti, tmp_path):
    Image.new('RGB', (310, 176)).save(tmp_path / 'training/image_2/000000.png')
    with pytest.raises(BadSample, match=r'image_2/000000.png is 310 x 176 pixels, and the info file says 320 x 180'):
        kitti[0]
