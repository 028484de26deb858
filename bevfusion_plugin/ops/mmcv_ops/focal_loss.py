"""Sigmoid focal loss and its gradient.

Letters: P predictions, K classes; a target of K is background. p is the sigmoid of a prediction, q = 1 - p.

Source: Lin et al., Focal Loss, ICCV 2017, eq. (5); logarithms are held above the smallest normal number as in mmcv
2.1.0. Checked against mmdet's ``py_sigmoid_focal_loss``, which is written otherwise.
"""

from __future__ import annotations

import torch
from torch import Tensor


def focal_terms(logits: Tensor, targets: Tensor, gamma: float, alpha: float) -> tuple[Tensor, Tensor]:
    """Loss (P, K) of each class on its own, and its derivative (P, K) by the logit.

    Args:
        logits: (P, K).
        targets: (P,) int64 in [0, K].
        gamma: Exponent that turns well classified predictions down.
        alpha: Weight of the positive terms; 1 - alpha is that of the negative ones.
    """
    is_target = targets[:, None] == torch.arange(logits.shape[1], device=targets.device)
    signed = torch.where(is_target, logits, -logits)  # the rest is the positive case of it
    p, q = signed.sigmoid(), (-signed).sigmoid()
    weight = torch.where(is_target, alpha, 1 - alpha)
    log_p = p.clamp(min=torch.finfo(p.dtype).tiny).log()
    loss = -weight * q**gamma * log_p
    slope = -weight * q**gamma * (q - gamma * p * log_p)
    return loss, torch.where(is_target, slope, -slope)


def class_weights(weight: Tensor, targets: Tensor) -> Tensor | float:
    """(P, 1) weight of each target's class; 1 without weights (0 of them)."""
    if not len(weight):
        return 1.0
    return torch.cat([weight, weight.new_ones(1)])[targets][:, None]  # background has none
