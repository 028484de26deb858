"""The same checkpoint tested in half precision, with black images, without points."""

from __future__ import annotations

import copy

import pytest
import torch
from detector_goldens import build_detector, recorded_batch
from goldens import load_golden
from mmengine.config import Config

from bevfusion_plugin.launch.test_step import change_test_step, check_sensor, without_sensor

GOLDEN = load_golden('e2e_lidar_cam')


def scores(model, batch):
    with torch.no_grad():
        return torch.cat([sample.pred_instances_3d.scores_3d for sample in model.test_step(copy.deepcopy(batch))])


def test_without_the_camera_the_images_are_black_and_the_points_stay():
    batch = recorded_batch(GOLDEN)
    found = without_sensor(batch, 'camera')['inputs']
    assert all(not image.any() and image.shape == before.shape for image, before in zip(found['img'], batch['inputs']['img']))
    assert all(map(torch.equal, found['points'], batch['inputs']['points'])) and batch['inputs']['img'][0].any()


def test_without_the_lidar_there_is_no_point_and_the_images_stay():
    batch = recorded_batch(GOLDEN)
    found = without_sensor(batch, 'lidar')['inputs']
    assert all(
        len(points) == 0 and points.shape[1] == before.shape[1] for points, before in zip(found['points'], batch['inputs']['points'])
    )
    assert all(map(torch.equal, found['img'], batch['inputs']['img'])) and len(batch['inputs']['points'][0])


@pytest.mark.parametrize('sensor', ['camera', 'lidar'])
def test_the_model_predicts_from_what_is_left(sensor):
    batch, model = recorded_batch(GOLDEN), build_detector(GOLDEN)
    whole, expected = scores(model, batch), scores(model, without_sensor(batch, sensor))
    change_test_step(model, sensor)
    found = scores(model, batch)
    assert torch.equal(found, expected) and not torch.equal(found, whole)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_in_half_precision_the_layers_compute_in_it_and_the_scores_stay_near(dtype):
    batch, model, seen = recorded_batch(GOLDEN), build_detector(GOLDEN), set()
    whole = scores(model, batch)
    model.pts_backbone.register_forward_hook(lambda module, args, out: seen.add(out[0].dtype))
    change_test_step(model, dtype=dtype)
    found = scores(model, batch)
    assert seen == {dtype} and found.dtype == torch.float32 and found.sort().values == pytest.approx(whole.sort().values, abs=0.05)


@pytest.mark.parametrize(
    'model, sensor',
    [(dict(pts_middle_encoder=None), 'lidar'), (dict(pts_middle_encoder=None), 'camera'), (dict(img_backbone=None), 'camera')],
)
def test_a_sensor_that_is_not_there_or_the_only_one_cannot_be_left_out(model, sensor):
    cfg = Config(dict(model=dict(dict(type='BEVFusion', img_backbone=dict(type='Swin'), pts_middle_encoder=dict(type='Sparse')), **model)))
    with pytest.raises(ValueError, match=f'--without {sensor} needs a model with camera and lidar, got one with (camera|lidar);'):
        check_sensor(cfg, sensor)
