"""Which prediction answers for which ground-truth box, at the least total cost.

Boxes are (x, y, z, l, w, h, yaw[, vx, vy]) in metres and radians, lidar frame, z at the bottom centre.
Letters: P predictions, G ground-truth boxes.
"""
from __future__ import annotations

from collections.abc import Mapping

import torch
from mmdet.models.task_modules import AssignResult
from mmengine.structures import InstanceData
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from bevfusion_plugin.models.head.assignment import box_overlaps, require_finite
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

    def assign(self, bboxes: Tensor, gt_bboxes: Tensor, gt_labels: Tensor, cls_pred: Tensor,
               train_cfg: Mapping) -> AssignResult:
        """Matched ground truth of each prediction.

        Args:
            bboxes: (P, 7 or 9) decoded predictions.
            gt_bboxes: (G, 7 or 9) boxes.
            gt_labels: (G,) class indices.
            cls_pred: (1, num_classes, P) class logits.
            train_cfg: The head's training config; ``reg_cost`` reads its ``point_cloud_range``.

        Returns:
            ``gt_inds`` (P,): 1-based index of the matched box, 0 for background; ``max_overlaps`` (P,): IoU with it,
            None if there is no ground truth; ``labels`` (P,): its class, -1 for background.

        Raises:
            ValueError: If a cost is NaN or infinite.
        """
        gt_inds = torch.zeros(len(bboxes), dtype=torch.long, device=bboxes.device)
        labels = torch.full_like(gt_inds, -1)
        if len(gt_bboxes) == 0 or len(bboxes) == 0:
            return AssignResult(len(gt_bboxes), gt_inds, None, labels=labels)
        cost, iou = self._cost_and_iou(bboxes, gt_bboxes, gt_labels, cls_pred, train_cfg)
        rows, columns = linear_sum_assignment(cost.cpu().numpy())
        rows = torch.as_tensor(rows, device=bboxes.device)
        columns = torch.as_tensor(columns, device=bboxes.device)
        gt_inds[rows] = columns + 1
        labels[rows] = gt_labels[columns]
        max_overlaps = bboxes.new_zeros(len(bboxes))
        max_overlaps[rows] = iou[rows, columns]
        return AssignResult(len(gt_bboxes), gt_inds, max_overlaps, labels=labels)

    @torch.no_grad()
    def _cost_and_iou(self, bboxes: Tensor, gt_bboxes: Tensor, gt_labels: Tensor, cls_pred: Tensor,
                      train_cfg: Mapping) -> tuple[Tensor, Tensor]:
        cls_cost = self.cls_cost(InstanceData(scores=cls_pred[0].T), InstanceData(labels=gt_labels))
        require_finite(cls_cost, 'cls_cost')
        reg_cost = self.reg_cost(bboxes, gt_bboxes, train_cfg)
        require_finite(reg_cost, 'reg_cost')
        require_finite(bboxes[:, :7], 'iou_cost (predicted boxes)')  # the IoU of a NaN yaw would be a silent 0
        iou = box_overlaps(self.iou_calculator, bboxes, gt_bboxes)
        iou_cost = self.iou_cost(iou)
        require_finite(iou_cost, 'iou_cost')
        return cls_cost + reg_cost + iou_cost, iou
