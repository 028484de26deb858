"""Which prediction answers for which ground-truth box, by distance alone.

Boxes are (x, y, z, l, w, h, yaw[, vx, vy]) in metres and radians, lidar frame, z at the bottom centre.
Letters: B samples, P predictions, G ground-truth boxes, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from mmdet.models.task_modules import AssignResult
from torch import Tensor

from bevfusion_plugin.models.head.assignment import MatchingCosts, assign_one_sample
from bevfusion_plugin.models.head.box_overlaps import batch_overlaps
from bevfusion_plugin.plan.checked_settings import positive
from bevfusion_plugin.registry import TASK_UTILS, build_nested


@TASK_UTILS.register_module()
class HeuristicAssigner3D:
    """Every ground-truth box takes the nearest prediction; a prediction wanted twice goes to the nearer box.

    Args:
        dist_thre: Largest distance of a match in metres, and what another class adds to the distance.
        iou_calculator: Config of the IoU calculator; None means mmdet3d's ``BboxOverlaps3D`` in the lidar frame.

    Raises:
        ValueError: If ``dist_thre`` is no number > 0.

    Source: TransFusion's code, as in mmdetection3d projects/BEVFusion (where the head cannot use it).
    """

    def __init__(self, dist_thre: float = 100, iou_calculator: dict | None = None) -> None:
        self.dist_thre = positive('dist_thre', dist_thre, mend='it is in metres')
        self.iou_calculator = build_nested(TASK_UTILS, iou_calculator or dict(type='mmdet3d.BboxOverlaps3D', coordinate='lidar'))

    def assign(
        self, bboxes: Tensor, gt_bboxes: Tensor, gt_bboxes_ignore: None, gt_labels: Tensor, query_labels: Tensor | None = None
    ) -> AssignResult:
        """Matched ground truth of each prediction, in the form of ``HungarianAssigner3D.assign``.

        Args:
            bboxes: (P, 7 or 9) decoded predictions.
            gt_bboxes: (G, 7 or 9) boxes.
            gt_bboxes_ignore: Not used; keeps the reference's order of arguments.
            gt_labels: (G,) class indices.
            query_labels: (P,) class of each query's proposal; None matches across classes.

        Raises:
            ValueError: If a predicted box is NaN or infinite.
        """
        if len(gt_bboxes) == 0 or len(bboxes) == 0:
            gt_inds = torch.zeros(len(bboxes), dtype=torch.long, device=bboxes.device)
            return AssignResult(len(gt_bboxes), gt_inds, bboxes.new_zeros(len(bboxes)), labels=torch.full_like(gt_inds, -1))
        return assign_one_sample(self, bboxes, gt_bboxes, gt_labels, None, query_labels, {})

    @torch.no_grad()
    def costs(
        self, bboxes: Tensor, gt_bboxes: Tensor, gt_labels: Tensor, cls_pred: Tensor | None, query_labels: Tensor | None, train_cfg: Mapping
    ) -> MatchingCosts:
        """Distances of a batch in metres; arguments as in ``HungarianAssigner3D.costs``.

        ``cls_pred`` and ``train_cfg`` are not used; ``query_labels`` (B, P) is the class of each query's proposal.
        """
        boxes = bboxes[..., :7].sum(-1, keepdim=True)
        distance = torch.linalg.vector_norm(bboxes[:, :, None, :2] - gt_bboxes[:, None, :, :2], dim=-1) + 0 * boxes
        if query_labels is not None:
            distance = distance + self.dist_thre * (query_labels[:, :, None] != gt_labels[:, None])
        return MatchingCosts(distance, batch_overlaps(self.iou_calculator, bboxes, gt_bboxes), {'distance (predicted boxes)': boxes})

    def solve(self, cost: np.ndarray) -> np.ndarray:
        """1-based box (P,) of each prediction, 0 for background, of the distances (P, G) of one sample."""
        chosen = cost.argmin(0)[None]  # (1, G): the prediction each box chooses
        claims = np.full_like(cost, np.inf)
        np.put_along_axis(claims, chosen, np.take_along_axis(cost, chosen, 0), 0)
        return np.where(claims.min(1) <= self.dist_thre, claims.argmin(1) + 1, 0)
