"""Which prediction answers for which ground-truth box, at the least total cost.

Boxes are (x, y, z, l, w, h, yaw[, vx, vy]) in metres and radians, lidar frame, z at the bottom centre.
Letters: B samples, P predictions, G ground-truth boxes, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from mmdet.models.task_modules import AssignResult
from mmengine.structures import InstanceData
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from bevfusion_plugin.models.head.assignment import MatchingCosts, assign_one_sample
from bevfusion_plugin.models.head.box_overlaps import batch_overlaps
from bevfusion_plugin.plan.checked_settings import settings_dict
from bevfusion_plugin.registry import TASK_UTILS, build_nested


@TASK_UTILS.register_module()
class HungarianAssigner3D:
    """One-to-one assignment of least total cost; every prediction left over is background.

    Args:
        cls_cost: Config of the cost of the class, e.g. mmdet's ``FocalLossCost``.
        reg_cost: Config of the cost of the position, e.g. ``BBoxBEVL1Cost``.
        iou_cost: Config of the cost of the overlap, e.g. ``IoU3DCost``.
        iou_calculator: Config of the IoU calculator, e.g. mmdet3d's ``BboxOverlaps3D``.

    Source: TransFusion (arXiv 2203.11496, section 3.5); mmdetection3d projects/BEVFusion. Differs in that costs which
        are not finite raise an error that names the term.
    """

    def __init__(self, cls_cost: dict, reg_cost: dict, iou_cost: dict, iou_calculator: dict) -> None:
        for name, part in dict(cls_cost=cls_cost, reg_cost=reg_cost, iou_cost=iou_cost, iou_calculator=iou_calculator).items():
            settings_dict(name, part, 'type')
        self.cls_cost = build_nested(TASK_UTILS, cls_cost)
        self.reg_cost = build_nested(TASK_UTILS, reg_cost)
        self.iou_cost = build_nested(TASK_UTILS, iou_cost)
        self.iou_calculator = build_nested(TASK_UTILS, iou_calculator)

    def assign(self, bboxes: Tensor, gt_bboxes: Tensor, gt_labels: Tensor, cls_pred: Tensor, train_cfg: Mapping) -> AssignResult:
        """Matched ground truth of each prediction of one sample.

        Args:
            bboxes: (P, 7 or 9) decoded predictions.
            gt_bboxes: (G, 7 or 9) boxes.
            gt_labels: (G,) class indices.
            cls_pred: (1, K, P) class logits.
            train_cfg: The head's training config; ``reg_cost`` reads its ``point_cloud_range``.

        Returns:
            ``gt_inds`` (P,): 1-based index of the matched box, 0 for background; ``max_overlaps`` (P,): IoU with it,
            None if there is no ground truth; ``labels`` (P,): its class, -1 for background.

        Raises:
            ValueError: If a cost is NaN or infinite.
        """
        if len(gt_bboxes) == 0 or len(bboxes) == 0:
            gt_inds = torch.zeros(len(bboxes), dtype=torch.long, device=bboxes.device)
            return AssignResult(len(gt_bboxes), gt_inds, None, labels=torch.full_like(gt_inds, -1))
        return assign_one_sample(self, bboxes, gt_bboxes, gt_labels, cls_pred, None, train_cfg)

    @torch.no_grad()
    def costs(
        self, bboxes: Tensor, gt_bboxes: Tensor, gt_labels: Tensor, cls_pred: Tensor | None, query_labels: Tensor | None, train_cfg: Mapping
    ) -> MatchingCosts:
        """Costs of a batch.

        Args:
            bboxes: (B, P, 7 or 9) decoded predictions.
            gt_bboxes: (B, G, 7 or 9) boxes.
            gt_labels: (B, G) class indices.
            cls_pred: (B, K, P) class logits.
            query_labels: Not used; other assigners need them.
            train_cfg: As in ``assign``.

        Raises:
            ValueError: If there are no logits.
        """
        if cls_pred is None:
            raise ValueError('HungarianAssigner3D matches by class, too, and got cls_pred=None; give it the class logits (B, K, P)')
        cls_cost = self._cls_cost(gt_labels, cls_pred)
        reg_cost = self.reg_cost(bboxes, gt_bboxes, train_cfg)
        iou = batch_overlaps(self.iou_calculator, bboxes, gt_bboxes)
        iou_cost = self.iou_cost(iou)
        boxes = bboxes[..., :7].sum(-1, keepdim=True)  # the IoU of a NaN yaw would be a silent 0
        total = cls_cost + reg_cost + iou_cost + 0 * boxes
        return MatchingCosts(
            total, iou, {'cls_cost': cls_cost, 'reg_cost': reg_cost, 'iou_cost (predicted boxes)': boxes, 'iou_cost': iou_cost}
        )

    def _cls_cost(self, gt_labels: Tensor, cls_pred: Tensor) -> Tensor:
        """(B, P, G): the costs of all predictions for every class, of which each box takes its own."""
        b, k, p = cls_pred.shape
        classes = torch.arange(k, device=cls_pred.device)
        by_class = self.cls_cost(InstanceData(scores=cls_pred.transpose(1, 2).reshape(b * p, k)), InstanceData(labels=classes))
        return by_class.view(b, p, k).gather(2, gt_labels[:, None].expand(-1, p, -1))

    def solve(self, cost: np.ndarray) -> np.ndarray:
        """1-based box (P,) of each prediction, 0 for background, of the costs (P, G) of one sample."""
        gt_inds = np.zeros(len(cost), dtype=np.int64)
        rows, columns = linear_sum_assignment(cost)
        gt_inds[rows] = columns + 1
        return gt_inds
