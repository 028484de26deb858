"""configs/bevfusion_custom.py with its variables changed: one step of training and an evaluation, through tools/train.py."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from custom_data import custom_config, write_custom_data, write_kitti_data, write_raw_kitti
from mmengine.logging import MMLogger
from PIL import Image
from tool_loading import load_tool

from bevfusion_plugin.doctor.memory.synthetic_batch import cameras_of
from bevfusion_plugin.launch.config_file import load_config
from bevfusion_plugin.launch.data_set import split_data_set
from bevfusion_plugin.launch.samples_per_gpu import memory_function

GUIDE = Path(__file__).parents[2] / 'docs' / 'custom_data.md'

PREFIX = {'pts': 'points', **{name: f'images/{name}' for name in ('front', 'left', 'right')}}
KITTI = dict(
    data_prefix=dict(pts='training/velodyne', CAM2='training/image_2'),
    class_names=['Car', 'Pedestrian'],
    cameras=['CAM2'],
    dataset=dict(type='KittiDataset'),
    train_infos='kitti_infos_train.pkl',
    val_infos='kitti_infos_val.pkl',
)
VARIANTS = dict(
    lidar_alone=dict(cameras=[], lidar_features=5, voxel_size=[0.3, 0.3, 0.1]),  # 48 voxels along z, which leave two heights
    one_camera=dict(cameras=['front']),
    three_cameras_and_velocity=dict(cameras=['front', 'left', 'right'], with_velocity=True),
)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A function that trains the config of these variables and gives what was logged."""
    monkeypatch.chdir(tmp_path)

    def train(**settings):
        path = custom_config(tmp_path / 'configs', data_root=str(tmp_path / 'data'), **settings)
        assert (
            load_tool('train').main(
                [
                    str(path),
                    '--work-dir',
                    'work',
                    '--seed',
                    '0',
                    '--gpus',
                    '1',
                    '--cfg-options',
                    'default_hooks.checkpoint.save_optimizer=False',
                ]
            )
            == 0
        )  # a third of the bytes
        MMLogger._instance_dict.clear()
        return [json.loads(line) for line in next((tmp_path / 'work').glob('*/vis_data/scalars.json')).read_text().splitlines()]

    return train


def check_losses_and_scores(lines):
    losses = [line['loss'] for line in lines if 'loss' in line]
    assert losses and all(map(math.isfinite, losses))
    assert [line for line in lines if 'center_distance/mAP' in line], 'its boxes were scored'


@pytest.mark.parametrize('name', VARIANTS)
def test_own_data_train_and_are_evaluated(name, run, tmp_path):
    settings = dict(dict(data_prefix=PREFIX), **VARIANTS[name])
    write_custom_data(tmp_path / 'data', settings['cameras'], samples=1, features=settings.get('lidar_features', 4))
    check_losses_and_scores(run(**settings))


def test_a_folder_in_kittis_layout_trains(run, tmp_path):
    write_kitti_data(tmp_path / 'data')
    check_losses_and_scores(run(**KITTI))


@pytest.mark.slow
def test_the_guides_command_makes_the_info_files_that_its_variables_take(tmp_path):
    write_raw_kitti(tmp_path / 'data' / 'kitti')
    section = GUIDE.read_text().partition("## A folder in KITTI's layout")[2]
    command, variables = (re.search(rf'```{kind}\n(.*?)```', section, re.DOTALL)[1] for kind in ('bash', 'python'))
    environment = dict(os.environ, PATH=f'{Path(sys.executable).parent}:{os.environ["PATH"]}', PYTHONPATH=str(GUIDE.parents[1]))
    subprocess.run(['bash', '-ec', command], cwd=tmp_path, env=environment, check=True)
    settings: dict = {}
    exec(variables, settings)
    del settings['__builtins__']
    cfg = load_config(custom_config(tmp_path, **dict(settings, data_root=str(tmp_path / settings['data_root']))))
    sample = split_data_set(cfg, 'train')[0]
    assert sample['inputs']['img'].shape == (1, 3, 192, 640)
    assert sample['data_samples'].gt_instances_3d.labels_3d.tolist() == [settings['class_names'].index('Car')]


def test_the_guides_info_file_is_one(tmp_path, monkeypatch):
    write_custom_data(tmp_path, ['CAM_FRONT'], samples=1)
    monkeypatch.chdir(tmp_path)
    exec(re.search(r'```python\n(import pickle.*?)```', GUIDE.read_text(), re.DOTALL)[1], {})
    shutil.copy('custom_infos_train.pkl', 'custom_infos_val.pkl')
    Image.new('RGB', (1920, 1080)).save('images/CAM_FRONT/000000.jpg')
    shipped = dict(class_names=['car', 'pedestrian', 'cyclist'], with_velocity=True)
    cfg = load_config(custom_config(tmp_path / 'configs', data_root=str(tmp_path), **shipped))
    boxes = split_data_set(cfg, 'train').get_data_info(0)['ann_info']['gt_bboxes_3d'].tensor
    assert boxes.shape == (1, 9) and split_data_set(cfg, 'val')[0]['inputs']['img'].shape == (1, 3, 64, 96)


@pytest.mark.parametrize(
    'setting, message',
    [
        (dict(point_cloud_range=[-14.4, -14.4, -3.0, 14.7, 14.4, 1.8]), r'makes \[97, 96, 24\] voxels: x and y must be multiples of 8'),
        (dict(voxel_size=[0.3, 0.3, 0.3]), r'makes \[96, 96, 16\] voxels: .* z at least 24; change point_cloud_range or voxel_size'),
    ],
)
def test_a_grid_that_cannot_be_is_named_with_its_mend(setting, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        load_config(custom_config(tmp_path, **setting))


def test_with_nuscenes_numbers_the_model_is_the_reference_recipes(tmp_path):
    names = ['car', 'truck', 'construction_vehicle', 'bus', 'trailer', 'barrier', 'motorcycle', 'bicycle', 'pedestrian', 'traffic_cone']
    shipped = dict(point_cloud_range=[-54.0, -54.0, -5.0, 54.0, 54.0, 3.0], voxel_size=[0.075, 0.075, 0.2], image_size=[256, 704])
    ours = load_config(custom_config(tmp_path, **shipped, class_names=names, with_velocity=True, lidar_features=5)).model.to_dict()
    reference = load_config('bevfusion.py').model.to_dict()
    for cfg in (ours, reference):
        del cfg['img_backbone']['init_cfg'], cfg['bbox_head']['bbox_coder']['post_center_range']  # it ends 2 m higher there
    for part in ('train_cfg', 'test_cfg'):
        assert ours['bbox_head'][part].pop('dataset') == 'custom' and reference['bbox_head'][part].pop('dataset') == 'nuScenes'
    assert ours == reference


@pytest.mark.parametrize('voxel_height, channels', [(0.2, 128), (0.1, 256)])
def test_the_parts_of_the_lidar_stage_are_those_of_the_stage_with_cameras(voxel_height, channels, tmp_path):
    first, second = (
        load_config(custom_config(tmp_path, cameras=cameras, data_prefix=PREFIX, voxel_size=[0.3, 0.3, voxel_height])).model.to_dict()
        for cameras in ([], ['front'])
    )
    assert first['pts_backbone']['in_channels'] == channels
    assert {name: second[name] for name in first if name.startswith('pts_') or name == 'bbox_head'} == {
        name: part for name, part in first.items() if name.startswith('pts_') or name == 'bbox_head'
    }


@pytest.mark.parametrize('cameras', [[], ['front'], ['front', 'left', 'right']])
def test_the_memory_model_counts_the_cameras_whatever_their_names(cameras, tmp_path):
    cfg = load_config(custom_config(tmp_path, cameras=cameras, data_prefix=PREFIX))
    need = memory_function(cfg, 1, gpu_memory=24)
    assert cameras_of(cfg) == len(cameras) and need(2) > need(1) > 0.3  # GiB


def test_images_of_nuscenes_are_resized_as_in_the_reference_recipe():
    own, theirs = (load_config(name) for name in ('bevfusion_custom.py', 'bevfusion.py'))
    for pipeline in ('train_pipeline', 'test_pipeline'):
        factors = [
            np.array(next(step for step in cfg[pipeline] if step['type'].endswith('ImageAug3D'))['resize_lim']) for cfg in (own, theirs)
        ]
        np.testing.assert_allclose(factors[0] * 704 / 1600, factors[1], rtol=2e-3)
