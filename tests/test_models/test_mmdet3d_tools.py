"""mmdet3d's own tools for inference on the shipped configs, with small models."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from goldens import load_golden
from mmdet3d.apis import LidarDet3DInferencer, inference_detector, inference_multi_modality_detector, init_model
from mmdet3d.structures import Box3DMode
from mmengine.config import Config
from mmengine.fileio import dump
from PIL import Image

from bevfusion_plugin.registry import MODELS, build_nested


@pytest.fixture
def cloud(tmp_path):
    """A file of points and their array."""
    points = np.random.default_rng(0).uniform(-20, 20, (3000, 5)).astype(np.float32)
    points[:, 2] = points[:, 2] / 10
    points.tofile(tmp_path / 'cloud.bin')
    return str(tmp_path / 'cloud.bin'), points


def lidar_config(root):
    cfg = Config.fromfile(root / 'configs/bevfusion_lidar.py')
    cfg.model = Config(dict(model=load_golden('e2e_lidar').meta['cfg'])).model
    cfg.model.type = 'bevfusion_plugin.BEVFusion'
    cfg.load_from = None
    return cfg


def test_the_lidar_inferencer_takes_files_and_arrays(request, cloud, tmp_path):
    cfg = lidar_config(request.config.rootpath)
    torch.save(
        dict(state_dict=build_nested(MODELS, cfg.model).state_dict(), meta=dict(dataset_meta=dict(classes=cfg.class_names))),
        tmp_path / 'weights.pth',
    )
    inferencer = LidarDet3DInferencer(cfg, str(tmp_path / 'weights.pth'), device='cpu')
    for points in cloud:
        (found,) = inferencer(dict(points=points), no_save_vis=True)['predictions']
        assert found['box_type_3d'] == 'LiDAR' and len(found['bboxes_3d']) == len(found['scores_3d']) > 0


def test_inference_detector_takes_a_file(request, cloud):
    model = init_model(lidar_config(request.config.rootpath), device='cpu')
    found, _ = inference_detector(model, cloud[0])
    assert len(found.pred_instances_3d.bboxes_3d) and found.box_mode_3d == Box3DMode.LIDAR


@pytest.fixture
def infos(tmp_path, cloud):
    """An info file of one frame with two cameras; their pictures lie in its folder."""
    look = [[0.0, -1.0, 0.0, 0.0], [0.0, 0.0, -1.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
    images = {}
    for name in ('CAM_FRONT', 'CAM_BACK'):
        Image.fromarray(np.full((225, 400, 3), 99, np.uint8)).save(tmp_path / f'{name}.jpg')
        images[name] = dict(img_path=f'{name}.jpg', cam2img=[[300.0, 0.0, 200.0], [0.0, 300.0, 112.0], [0.0, 0.0, 1.0]], lidar2cam=look)
    dump(dict(data_list=[dict(images=images, timestamp=1.0)]), tmp_path / 'infos.pkl')
    return str(tmp_path / 'infos.pkl')


def test_inference_with_cameras_takes_a_folder_of_images_and_says_so_for_one(request, cloud, infos, tmp_path):
    model = init_model(Config.fromfile(request.config.rootpath / 'configs/bevfusion_demo.py'), device='cpu')
    found, _ = inference_multi_modality_detector(model, cloud[0], str(tmp_path), infos, cam_type='all')
    assert len(found.pred_instances_3d.bboxes_3d)
    with pytest.raises(KeyError, match="has one image, .*CAM_FRONT.jpg; give inference_multi_modality_detector cam_type='all'"):
        inference_multi_modality_detector(model, cloud[0], str(tmp_path / 'CAM_FRONT.jpg'), infos, cam_type='CAM_FRONT')
