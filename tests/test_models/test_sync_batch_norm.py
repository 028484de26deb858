"""``sync_bn='torch'``, MMEngine's own setting: what it makes of our detector; the layers themselves need GPUs to train on several ranks."""

import torch
from detector_goldens import build_detector, recorded_batch, total_loss
from goldens import load_golden
from mmengine.model import convert_sync_batchnorm
from torch.nn.modules.batchnorm import _BatchNorm


def batch_norms(model):
    return {name: module for name, module in model.named_modules() if isinstance(module, _BatchNorm)}


def step(model, batch):
    data = model.data_preprocessor(batch, True)
    loss = total_loss(model.loss(data['inputs'], data['data_samples']))
    loss.backward()
    return loss.detach()


def test_every_batch_norm_of_lidar_cameras_and_head_shares_its_statistics_and_keeps_its_settings():
    golden = load_golden('e2e_lidar_cam')
    plain = batch_norms(build_detector(golden))
    synced = batch_norms(convert_sync_batchnorm(build_detector(golden), 'torch'))
    assert list(synced) == list(plain) and all(type(module) is torch.nn.SyncBatchNorm for module in synced.values())
    parts = 'img_neck view_transform pts_middle_encoder fusion_layer pts_backbone pts_neck bbox_head'
    assert {name.split('.')[0] for name in synced} == set(parts.split())
    assert [(m.momentum, m.eps, m.num_features) for m in synced.values()] == [(m.momentum, m.eps, m.num_features) for m in plain.values()]


def test_on_one_rank_a_step_and_a_prediction_are_those_of_plain_batch_norm():
    golden = load_golden('e2e_lidar_cam')
    plain = build_detector(golden, 'train')
    synced = convert_sync_batchnorm(build_detector(golden, 'train'), 'torch')
    assert torch.equal(step(plain, recorded_batch(golden)), step(synced, recorded_batch(golden)))
    with torch.no_grad():
        scores = [
            torch.cat([sample.pred_instances_3d.scores_3d for sample in model.eval().test_step(recorded_batch(golden))])
            for model in (plain, synced)
        ]
    assert torch.equal(*scores)
