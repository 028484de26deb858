"""Overlap of 3D boxes of a whole batch.

Boxes are (x, y, z, l, w, h, yaw, ...) in metres and radians, lidar frame, z at the bottom centre.
Letters: B samples, P predictions, G ground-truth boxes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from mmdet3d.structures.bbox_3d import base_box3d
from mmdet3d.structures.ops import BboxOverlaps3D
from torch import Tensor

SMALLEST_SIDE, SMALLEST_VOLUME = 1e-4, 1e-8  # metres and cubic metres, mmdet3d's guards against overflow and division by zero


def batch_overlaps(iou_calculator: Callable[[Tensor, Tensor], Tensor], bboxes: Tensor, gt_bboxes: Tensor) -> Tensor:
    """IoU (B, P, G) of each sample's two sets of boxes, one of which may lack the velocities.

    mmdet3d's ``BboxOverlaps3D`` in the lidar frame is computed for all samples at once; other calculators are asked sample by sample.
    """
    bboxes, gt_bboxes, dtype = bboxes[..., :7], gt_bboxes[..., :7], bboxes.dtype
    if isinstance(iou_calculator, BboxOverlaps3D) and iou_calculator.coordinate == 'lidar':
        return lidar_overlaps(bboxes, gt_bboxes).to(dtype)
    return torch.stack([iou_calculator(*sample) for sample in zip(bboxes, gt_bboxes)]).to(dtype)


def lidar_overlaps(bboxes: Tensor, gt_bboxes: Tensor) -> Tensor:
    """IoU (B, P, G) in float32 of boxes (B, P, 7) and (B, G, 7).

    Source: mmdet3d, ``BaseInstance3DBoxes.overlaps``, whose numbers these are. There samples come one by one, and the columns that
    it picks by a list make the host wait for the device.
    """
    first, second = bboxes.float()[:, :, None], gt_bboxes.float()[:, None]
    flat_first, flat_second = bev_rectangles(first), bev_rectangles(second)
    shape = bboxes.shape[0], bboxes.shape[1], gt_bboxes.shape[1]
    pairs = (boxes.expand(*shape, 5).reshape(-1, 5) for boxes in (flat_first, flat_second))
    flat_iou = base_box3d.box_iou_rotated(*pairs, aligned=True).view(shape)  # mmcv's, as mmdet3d's boxes have it
    flat = flat_iou * (flat_first[..., 2] * flat_first[..., 3] + flat_second[..., 2] * flat_second[..., 3]) / (1 + flat_iou)
    top = torch.minimum(first[..., 2] + first[..., 5], second[..., 2] + second[..., 5])
    common = flat * (top - torch.maximum(first[..., 2], second[..., 2])).clamp(min=0)
    volumes = first[..., 3:6].prod(-1) + second[..., 3:6].prod(-1)
    return common / (volumes - common).clamp(min=SMALLEST_VOLUME)


def bev_rectangles(boxes: Tensor) -> Tensor:
    """Rotated rectangles (..., 5) as (x, y, l, w, yaw)."""
    return torch.cat([boxes[..., :2], boxes[..., 3:5].clamp(min=SMALLEST_SIDE), boxes[..., 6:7]], dim=-1)
