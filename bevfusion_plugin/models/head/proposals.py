"""Object queries: the peaks of a dense heatmap, and the class of each.

Letters: B samples, X x Y cells of the BEV map, K classes, Q proposals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def local_maxima(heatmap: Tensor, nms_kernel_size: int, exempt_classes: Sequence[int]) -> Tensor:
    """``heatmap`` (B, K, X, Y) with every score but the local maxima set to 0.

    Cells whose window leaves the map are never maxima, except in ``exempt_classes``, which keep all their scores.

    Args:
        heatmap: Scores >= 0.
        nms_kernel_size: Odd side length of the window in cells; 1 keeps every score.
        exempt_classes: Classes that skip the test.
    """
    border = nms_kernel_size // 2
    highest = F.pad(F.max_pool2d(heatmap, nms_kernel_size, stride=1), [border] * 4)
    is_peak = heatmap == highest
    for label in exempt_classes:
        is_peak[:, label] = True
    return heatmap * is_peak


def best_proposals(
    scores: Tensor, num_proposals: int, nms_kernel_size: int, exempt_classes: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Class (B, Q), flat cell (B, Q) and scores of all classes (B, K, Q) of the best proposals, best first.

    They are sorted stably, so equal scores give the same proposals on every device.

    Args:
        scores: (B, K, X, Y) >= 0.
        num_proposals: Q, the best over all classes.
        nms_kernel_size: See :func:`local_maxima`.
        exempt_classes: See there.
    """
    peaks = local_maxima(scores, nms_kernel_size, exempt_classes).flatten(2)  # (B, K, X * Y)
    best = first_of_the_highest(peaks.flatten(1), num_proposals)
    labels, cells = best // peaks.shape[2], best % peaks.shape[2]
    return labels, cells, peaks.gather(2, cells[:, None].expand(-1, peaks.shape[1], -1))


def first_of_the_highest(scores: Tensor, count: int) -> Tensor:
    """Columns (B, count) of the highest scores, which must be >= 0, highest first and equal ones in their order.

    ``topk`` promises no order of equal scores. In float32 the bits of a score >= 0 grow with it, so a key of those bits and, behind
    them, of the column counted backwards has the same order and no equals. Sorting all 324,000 scores of a sample takes longer.
    """
    if scores.dtype != torch.float32:
        return scores.argsort(dim=1, descending=True, stable=True)[:, :count]
    backwards = torch.arange(scores.shape[1] - 1, -1, -1, device=scores.device)
    keys = (scores.view(torch.int32).long() << 32) | backwards
    return keys.topk(count, dim=1).indices


def cell_centers(x_cells: int, y_cells: int) -> Tensor:
    """Positions (1, X * Y, 2) of the cells' centres, (x, y) in cells, x slowest: cell (i, j) is i * Y + j."""
    x, y = torch.meshgrid(torch.arange(x_cells) + 0.5, torch.arange(y_cells) + 0.5, indexing='ij')
    return torch.stack([x, y], dim=-1).view(1, -1, 2)


def is_of_class(labels: Tensor, num_classes: int) -> Tensor:
    """Whether (B, K, Q) each class is that of ``labels`` (B, Q)."""
    return labels[:, None] == torch.arange(num_classes, device=labels.device)[:, None]


def query_labels_of(preds: Mapping[str, Tensor]) -> Tensor:
    """Class (B, Q) of each query's proposal.

    Raises:
        ValueError: If the predictions do not carry it, as those of the reference's head do not.
    """
    if 'query_labels' not in preds:
        raise ValueError(
            f"predictions need 'query_labels', the class of each query's proposal, got {', '.join(preds)}; hand on all "
            'that TransFusionHead.forward returned'
        )
    return preds['query_labels']
