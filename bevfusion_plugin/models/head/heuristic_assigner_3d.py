"""Which prediction answers for which ground-truth box, by distance alone.

Boxes are (x, y, z, l, w, h, yaw[, vx, vy]) in metres and radians, lidar frame, z at the bottom centre.
Letters: P predictions, G ground-truth boxes.
"""
from __future__ import annotations

import torch
from mmdet.models.task_modules import AssignResult
from torch import Tensor

from bevfusion_plugin.models.head.assignment import box_overlaps, require_finite
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
        self.iou_calculator = build_nested(
            TASK_UTILS, iou_calculator or dict(type='mmdet3d.BboxOverlaps3D', coordinate='lidar'))

    @torch.no_grad()
    def assign(self, bboxes: Tensor, gt_bboxes: Tensor, gt_bboxes_ignore: None, gt_labels: Tensor,
               query_labels: Tensor | None = None) -> AssignResult:
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
        require_finite(bboxes[:, :7], 'distance (predicted boxes)')
        gt_inds = torch.zeros(len(bboxes), dtype=torch.long, device=bboxes.device)
        labels = torch.full_like(gt_inds, -1)
        max_overlaps = bboxes.new_zeros(len(bboxes))
        if len(gt_bboxes) == 0 or len(bboxes) == 0:
            return AssignResult(len(gt_bboxes), gt_inds, max_overlaps, labels=labels)
        matched_gt, distance = self._nearest(bboxes, gt_bboxes, gt_labels, query_labels)
        matched = distance <= self.dist_thre
        gt_inds[matched] = matched_gt[matched] + 1
        labels[matched] = gt_labels[matched_gt[matched]]
        overlaps = box_overlaps(self.iou_calculator, gt_bboxes[matched_gt[matched]], bboxes[matched])
        max_overlaps[matched] = overlaps.diagonal().to(max_overlaps)
        return AssignResult(len(gt_bboxes), gt_inds, max_overlaps, labels=labels)

    def _nearest(self, bboxes: Tensor, gt_bboxes: Tensor, gt_labels: Tensor,
                 query_labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """For each prediction the nearest box among those that chose it, and the distance (inf where none did)."""
        distance = torch.linalg.vector_norm(gt_bboxes[:, None, :2] - bboxes[None, :, :2], dim=-1)  # (G, P)
        if query_labels is not None:
            distance = distance + self.dist_thre * (gt_labels[:, None] != query_labels[None])
        chosen = distance.argmin(1, keepdim=True)  # (G, 1): the prediction each box chooses
        claims = torch.full_like(distance, torch.inf).scatter(1, chosen, distance.gather(1, chosen))
        nearest, matched_gt = claims.min(0)
        return matched_gt, nearest
