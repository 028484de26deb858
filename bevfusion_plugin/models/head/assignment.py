"""What TransFusion's assigners share.

Boxes are (x, y, z, l, w, h, yaw[, vx, vy]) in metres and radians, lidar frame, z at the bottom centre.
Letters: P predictions, G ground-truth boxes.
"""
from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def require_finite(values: Tensor, term: str) -> None:
    """Raise a ``ValueError`` that names the cost ``term`` if any of ``values`` is NaN or infinite."""
    bad = int((~torch.isfinite(values)).sum())
    if bad:
        raise ValueError(f'{term} of the matching has {bad} NaN or infinite values out of {values.numel()}: the '
                         'predictions are no longer finite, training has diverged. Lower the learning rate (does '
                         'it fit the total batch?), keep gradient clipping on, and try float32 or bfloat16 instead '
                         'of float16')


def box_overlaps(iou_calculator: Callable[[Tensor, Tensor], Tensor], bboxes: Tensor, gt_bboxes: Tensor) -> Tensor:
    """IoU (P, G) of two sets of boxes, one of which may lack the velocities; mmdet3d computes it in float32."""
    return iou_calculator(bboxes[:, :7], gt_bboxes[:, :7]).to(bboxes.dtype)
