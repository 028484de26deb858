"""TransFusion heads as they were recorded, and ground truth for them."""

from __future__ import annotations

import copy

import torch
from goldens import load_golden
from mmdet3d.structures import LiDARInstance3DBoxes
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData

from bevfusion_plugin.registry import MODELS, build_nested

HEADS = ['head_nuscenes', 'head_code8_noaux', 'head_nuscenes_circle_nms']
TRAINED_HEADS = HEADS[:2]
METAS = [dict(box_type_3d=LiDARInstance3DBoxes)] * 2


def build(name='head_nuscenes', train_cfg=None, test_cfg=None, bbox_coder=None, **overrides):
    """The head of a recorded case with settings changed; ``...`` as a value removes the setting."""
    cfg = copy.deepcopy(load_golden(name).meta['cfg'])
    cfg.update(overrides)
    for part, changes in dict(train_cfg=train_cfg, test_cfg=test_cfg, bbox_coder=bbox_coder).items():
        cfg[part] = {key: value for key, value in {**cfg[part], **(changes or {})}.items() if value is not ...}
    return build_nested(MODELS, ConfigDict(cfg))


def recorded(golden):
    head = build_nested(MODELS, ConfigDict(golden.meta['cfg']))
    head.load_state_dict(golden.group('sd/'), strict=True)
    return head


def instances(boxes, labels):
    return InstanceData(bboxes_3d=LiDARInstance3DBoxes(boxes, box_dim=boxes.shape[1]), labels_3d=labels)


def recorded_gt(golden):
    return [instances(*gt) for gt in zip(golden.series('in/gt_boxes'), golden.series('in/gt_labels'))]


def no_gt():
    return instances(torch.zeros(0, 9), torch.zeros(0, dtype=torch.long))


def total(losses):
    return sum(value for name, value in losses.items() if 'loss' in name)
