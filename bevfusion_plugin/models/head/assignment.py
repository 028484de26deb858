"""What TransFusion's assigners share: padded batches of boxes, and the way from costs to matches.

Boxes are (x, y, z, l, w, h, yaw[, vx, vy]) in metres and radians, lidar frame, z at the bottom centre.
Letters: B samples, P predictions, G ground-truth boxes of the sample that has most, and at least 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from mmdet.models.task_modules import AssignResult
from mmengine.structures import InstanceData
from torch import Tensor


class GroundTruth(NamedTuple):
    """Boxes of a batch, in rows of one length; behind a sample's own boxes come zeros."""

    boxes: Tensor
    """(B, G, 7 or 9)."""
    labels: Tensor
    """(B, G) int64 class indices."""
    counts: list[int]
    """Boxes of each sample."""


class MatchingCosts(NamedTuple):
    """What a match costs, NaN or infinite wherever a term is."""

    total: Tensor
    """(B, P, G)."""
    iou: Tensor
    """(B, P, G) overlap of each pair."""
    terms: dict[str, Tensor]
    """(B, P, G), or (B, P, 1) where the box does not matter, under the names that errors give them."""


class Assigner(Protocol):
    """An assigner in two halves: one on the device, that never makes the host wait, and one on the host."""

    def costs(
        self, bboxes: Tensor, gt_bboxes: Tensor, gt_labels: Tensor, cls_pred: Tensor | None, query_labels: Tensor | None, train_cfg: Mapping
    ) -> MatchingCosts:
        """Costs of each prediction and each box of a batch, see ``HungarianAssigner3D.costs``."""

    def solve(self, cost: np.ndarray) -> np.ndarray:
        """1-based box (P,) of each prediction, 0 for background, of the costs (P, G) of one sample and decoder layer."""


def pad_ground_truth(instances: Sequence[InstanceData], columns: int, device: torch.device) -> GroundTruth:
    """The boxes and labels of all samples as one batch.

    Args:
        instances: ``bboxes_3d`` and ``labels_3d`` of each sample.
        columns: Numbers of a box if no sample has any: mmdet3d gives an empty set of boxes 7, velocity or not.
        device: Where they go.
    """
    counts = [len(sample.labels_3d) for sample in instances]
    boxes = [sample.bboxes_3d.tensor.to(device) for sample, count in zip(instances, counts) if count]
    labels = [sample.labels_3d.to(device, torch.long) for sample, count in zip(instances, counts) if count]
    width = boxes[0].shape[1] if boxes else columns
    blank_boxes = torch.zeros(max(1, *counts), width, device=device, dtype=boxes[0].dtype if boxes else None)
    blank_labels = torch.zeros(len(blank_boxes), device=device, dtype=torch.long)
    return GroundTruth(_padded(boxes, counts, blank_boxes), _padded(labels, counts, blank_labels), counts)


def _padded(rows: list[Tensor], counts: list[int], blank: Tensor) -> Tensor:
    left = iter(rows)
    parts = [part for count in counts for part in ([next(left)] if count else []) + [blank[count:]]]
    return torch.cat(parts).view(len(counts), *blank.shape)


def match(assigner: Assigner, costs: MatchingCosts, total: np.ndarray, counts: Sequence[int], num_proposals: int) -> np.ndarray:
    """Matched box (B, P) of each prediction, 1-based, 0 for background.

    Args:
        assigner: Which solves.
        costs: Where an error looks for the term that is to blame.
        total: ``costs.total`` on the host.
        counts: Boxes of each sample.
        num_proposals: Predictions that are matched on their own: those of one decoder layer.

    Raises:
        ValueError: If a cost is NaN or infinite.
    """
    gt_inds = np.zeros(total.shape[:2], dtype=np.int64)
    for sample, count in enumerate(counts):
        own = total[sample, :, :count]
        if not np.isfinite(own).all():
            raise _not_finite(costs, sample, count)
        for start in range(0, own.shape[0] if count else 0, num_proposals):
            layer = slice(start, start + num_proposals)
            gt_inds[sample, layer] = assigner.solve(own[layer])
    return gt_inds


def _not_finite(costs: MatchingCosts, sample: int, count: int) -> ValueError:
    for name, values in costs.terms.items():
        own = values[sample, :, :count]
        bad = int((~own.isfinite()).sum())
        if bad:
            return ValueError(
                f'{name} of the matching has {bad} NaN or infinite values out of {own.numel()}: the predictions are no longer '
                'finite, training has diverged. Lower the learning rate (does it fit the total batch?), keep gradient clipping '
                'on, and try float32 or bfloat16 instead of float16'
            )
    return ValueError('the costs of the matching are finite, but their sum is not: training has diverged')


def matched_overlaps(iou: Tensor, gt_inds: Tensor) -> Tensor:
    """IoU (B, P) with the matched box, 0 for background, of overlaps (B, P, G) and 1-based matches (B, P)."""
    return iou.gather(2, (gt_inds - 1).clamp(min=0)[..., None]).squeeze(2).masked_fill(gt_inds == 0, 0)


def matching_statistics(iou: Tensor, gt_inds: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """IoU (B, P) in [0, 1] with the matched box, number () of matches, and mean IoU () of a sample's matches, averaged over the samples.

    Arguments as for :func:`matched_overlaps`.
    """
    ious = matched_overlaps(iou, gt_inds).clamp(0, 1)
    num_pos = (gt_inds > 0).sum(1)
    return ious, num_pos.sum(), (ious.sum(1) / num_pos.clamp(min=1)).mean()


def assign_one_sample(
    assigner: Assigner,
    bboxes: Tensor,
    gt_bboxes: Tensor,
    gt_labels: Tensor,
    cls_pred: Tensor | None,
    query_labels: Tensor | None,
    train_cfg: Mapping,
) -> AssignResult:
    """What ``assigner.assign`` returns: the matches of a batch of one sample, whose boxes and predictions are not empty.

    Arguments as for :meth:`Assigner.costs`, but without the dimension B, which only ``cls_pred`` has.
    """
    costs = assigner.costs(
        bboxes[None], gt_bboxes[None], gt_labels[None], cls_pred, None if query_labels is None else query_labels[None], train_cfg
    )
    matches = match(assigner, costs, costs.total.cpu().numpy(), [len(gt_bboxes)], len(bboxes))
    gt_inds = torch.from_numpy(matches).to(bboxes.device)
    labels = torch.where(gt_inds > 0, gt_labels[(gt_inds - 1).clamp(min=0)], -1)
    return AssignResult(len(gt_bboxes), gt_inds[0], matched_overlaps(costs.iou, gt_inds)[0], labels=labels[0])
