"""TransFusion's losses on predictions and their targets.

Letters: B samples, X x Y cells, K classes, Q proposals, L supervised decoder layers, one behind the other in the last dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from bevfusion_plugin.models.head.head_config import REGRESSION
from bevfusion_plugin.models.head.transfusion_targets import TransFusionTargets


def heatmap_loss(loss: Callable[..., Tensor], dense_heatmap: Tensor, target: Tensor) -> Tensor:
    """Loss of the dense heatmap over the number of cells that are exactly 1.

    Args:
        loss: Of probabilities and targets, with an ``avg_factor``.
        dense_heatmap: (B, K, X, Y) logits.
        target: (B, K, X, Y).
    """
    probability = dense_heatmap.sigmoid().clamp(1e-4, 1 - 1e-4)
    return loss(probability, target, avg_factor=target.eq(1).sum().clamp(min=1))


def layer_losses(
    loss_cls: Callable[..., Tensor],
    loss_bbox: Callable[..., Tensor],
    preds: Mapping[str, Tensor],
    targets: TransFusionTargets,
    num_proposals: int,
    code_weights: Tensor,
) -> dict[str, Tensor]:
    """``layer_i_loss_cls`` and ``layer_i_loss_bbox`` of each supervised layer, -1 for the last one.

    They are over the number of matched queries of all samples and layers of this rank. The box loss is asked for its terms, which
    are weighted here: given weights, mmdet's losses first look whether any is above 0, and the host waits for the answer.

    Args:
        loss_cls: Of class logits, labels and weights, with an ``avg_factor``.
        loss_bbox: Of box codes and targets, with a ``reduction_override``.
        preds: What the head's ``forward`` gives.
        targets: What they should be.
        num_proposals: Q.
        code_weights: (code_size,) a weight for each number of the box code.
    """
    code = torch.cat([preds[name] for name in REGRESSION if name in preds], dim=1).transpose(1, 2)
    logits = preds['heatmap'].transpose(1, 2)  # (B, L * Q, K)
    weights = targets.bbox_weights * code_weights
    num_layers, matched = logits.shape[1] // num_proposals, targets.num_pos.clamp(min=1)
    losses = {}
    for i in range(num_layers):
        layer = slice(i * num_proposals, (i + 1) * num_proposals)
        prefix = 'layer_-1' if i == num_layers - 1 else f'layer_{i}'
        losses[f'{prefix}_loss_cls'] = loss_cls(
            logits[:, layer].flatten(0, 1),
            targets.labels[:, layer].flatten(),
            targets.label_weights[:, layer].flatten(),
            avg_factor=matched,
        )
        terms = loss_bbox(code[:, layer], targets.bbox_targets[:, layer], reduction_override='none')
        losses[f'{prefix}_loss_bbox'] = (terms * weights[:, layer]).sum() / matched
    return losses
