"""Suppression of boxes by the distance of their centres."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from mmdet3d.models.layers import circle_nms
from torch import Tensor


def circle_nms_mask(boxes: Tensor, scores: Tensor, labels: Tensor, radius_by_class: Mapping[int, float]) -> Tensor:
    """Mask (N,) of the boxes that no better box of the same class lies close to.

    Args:
        boxes: (N, >= 2) starting with (x, y) in metres.
        scores: (N,).
        labels: (N,) class indices.
        radius_by_class: Squared distance in m^2 per class; of each of these classes the best 83 boxes stay at most.

    Source: CenterPoint's circle NMS, mmdet3d.models.layers.circle_nms.
    """
    kept = torch.ones_like(labels, dtype=torch.bool)
    for label, radius in radius_by_class.items():
        candidates = (labels == label).nonzero().squeeze(1)
        detections = torch.cat([boxes[candidates, :2], scores[candidates, None]], dim=1)
        best = circle_nms(detections.detach().cpu().numpy(), radius)
        kept[candidates] = False
        kept[candidates[torch.tensor(best, dtype=torch.long, device=labels.device)]] = True
    return kept
