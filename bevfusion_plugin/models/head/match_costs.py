"""Costs of matching predicted boxes with ground truth, as matrices (P predictions, G ground-truth boxes), one a sample or many.

``FocalLossCost``, the cost of the class, is mmdet's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from bevfusion_plugin.ops.packed_copy import constant
from bevfusion_plugin.plan.checked_settings import finite_number
from bevfusion_plugin.registry import TASK_UTILS


def bev_l1_distance(bboxes: Tensor, gt_bboxes: Tensor, point_cloud_range: Sequence[float]) -> Tensor:
    """L1 distance (..., P, G) of box centres in the ground plane, in units of the range's extent.

    Args:
        bboxes: (..., P, >= 2) boxes starting with (x, y) in metres.
        gt_bboxes: (..., G, >= 2), likewise.
        point_cloud_range: (x_min, y_min, z_min, x_max, y_max, z_max) in metres.
    """
    low, high = constant([point_cloud_range[axis] for axis in (0, 1, 3, 4)], bboxes).split(2)
    extent = high - low
    return torch.cdist((bboxes[..., :2] - low) / extent, (gt_bboxes[..., :2] - low) / extent, p=1)


@TASK_UTILS.register_module()
class BBoxBEVL1Cost:
    """Weighted L1 distance of box centres in the ground plane, normalised by the point cloud range.

    Two pairings of boxes on the same side of each other cost exactly the same, so round-off may decide between them.

    Args:
        weight: Factor of the cost, >= 0; anything else raises a ``ValueError``.

    Source: TransFusion (arXiv 2203.11496, section 3.5); mmdetection3d projects/BEVFusion.
    """

    def __init__(self, weight: float) -> None:
        self.weight = finite_number('weight', weight, 0, mend='0 switches the cost off')

    def __call__(self, bboxes: Tensor, gt_bboxes: Tensor, train_cfg: Mapping) -> Tensor:
        """Costs (..., P, G); ``train_cfg['point_cloud_range']`` gives the range, boxes as in ``bev_l1_distance``."""
        return self.weight * bev_l1_distance(bboxes, gt_bboxes, train_cfg['point_cloud_range'])


@TASK_UTILS.register_module()
class IoU3DCost:
    """Negative weighted IoU: a better overlap costs less.

    Args:
        weight: Factor of the cost, >= 0; anything else raises a ``ValueError``.

    Source: TransFusion (arXiv 2203.11496, section 3.5); mmdetection3d projects/BEVFusion.
    """

    def __init__(self, weight: float) -> None:
        self.weight = finite_number('weight', weight, 0, mend='0 switches the cost off')

    def __call__(self, iou: Tensor) -> Tensor:
        """Costs of the overlaps ``iou`` (P, G), same shape."""
        return -self.weight * iou
