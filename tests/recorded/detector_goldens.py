"""Builds a detector and a batch from a recorded end-to-end case."""

from __future__ import annotations

import copy
from typing import Any

from goldens import Golden
from mmdet3d.structures import Det3DDataSample, LiDARInstance3DBoxes
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor, nn

from bevfusion_plugin.registry import MODELS, build_nested

RELU_ZERO = 1e-7
MATRICES = ('cam2img', 'cam2lidar', 'lidar2img', 'img_aug_matrix', 'lidar_aug_matrix')


def build_detector(golden: Golden, mode: str = 'eval') -> nn.Module:
    """The detector of the case with the recorded weights."""
    model = build_nested(MODELS, ConfigDict(golden.meta['cfg']))
    model.load_state_dict(golden.group('sd/'), strict=True)
    return model.train(mode == 'train')


def in_float64(model: nn.Module) -> nn.Module:
    """The detector in float64, behind the voxels that it makes in float32.

    There the sign of every ReLU's input is certain, and one differs from the recorded float32's: an input of -5e-8 in
    ``e2e_lidar_cam``, whose unit moves some gradients by 2e-3, was recorded as on. So inputs this near to zero are on.
    """
    model.double()
    model.pts_middle_encoder.register_forward_pre_hook(lambda module, args: (args[0].double(), *args[1:]))
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_pre_hook(lambda module, args: (args[0] + RELU_ZERO * (args[0].abs() < RELU_ZERO),))
    return model


def recorded_batch(golden: Golden) -> dict:
    """``inputs`` and ``data_samples`` as a dataloader gives them."""
    inputs, samples = dict(points=golden.series('in/points')), []
    if 'in/imgs0' in golden.arrays:
        inputs['img'] = [imgs.permute(0, 3, 1, 2).float() for imgs in golden.series('in/imgs')]
    for index in range(golden.meta['B']):
        meta = {name: golden[f'in/{name}{index}'].numpy() for name in MATRICES if f'in/{name}{index}' in golden.arrays}
        samples.append(data_sample(golden[f'in/gt_boxes{index}'], golden[f'in/gt_labels{index}'], meta))
    return dict(inputs=inputs, data_samples=samples)


def data_sample(boxes: Tensor, labels: Tensor, meta: dict) -> Det3DDataSample:
    """A data sample with these ground-truth boxes (z at the bottom)."""
    instances = InstanceData(bboxes_3d=LiDARInstance3DBoxes(boxes, box_dim=boxes.shape[-1]), labels_3d=labels)
    sample = Det3DDataSample(metainfo=dict(box_type_3d=LiDARInstance3DBoxes, **meta))
    sample.gt_instances_3d = instances
    return sample


def total_loss(losses: dict[str, Tensor]) -> Tensor:
    """Sum of the terms whose name contains ``loss``."""
    return sum(value for name, value in losses.items() if 'loss' in name)


def losses_of(model: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
    """Losses of a batch, which stays as it is."""
    data = model.data_preprocessor(copy.deepcopy(batch), training=True)
    return model.loss(data['inputs'], data['data_samples'])


def without(sample: Det3DDataSample, *keys: str, **extra: Any) -> Det3DDataSample:
    """The sample without ``keys`` in its meta info, and with ``extra``."""
    kept = {k: v for k, v in sample.metainfo.items() if k not in (*keys, 'box_type_3d')}
    return data_sample(sample.gt_instances_3d.bboxes_3d.tensor, sample.gt_instances_3d.labels_3d, kept | extra)
