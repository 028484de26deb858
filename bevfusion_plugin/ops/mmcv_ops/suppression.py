"""Non-maximum suppression.

Letters: N boxes, sorted by falling score. A box is removed by a kept one before it that it overlaps too much.

Source: the rules are those of mmcv 2.1.0's operators; checked against numbers recorded from them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bevfusion_plugin.ops.mmcv_ops.rotated_boxes import in_chunks, rotated_overlaps, shared_area

BLOCK = 2048  # boxes decided at once: a table of pairs in bool has 4 MiB
SMALLEST_UNION = 1e-8  # mmcv's, m^2


def greedy_keep(boxes: Tensor, removes: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Which boxes a greedy suppression keeps.

    Boxes are decided a block at a time: first what is kept so far removes, then the block's boxes each other. There
    ``kept = not removed by a kept box before`` is repeated until it holds: a round settles one more box at least, and
    mostly all that are left.

    Args:
        boxes: (N, ...) by falling score.
        removes: Whether each of the first boxes (A, ...), if kept, removes each of the second (B, ...): (A, B) bool.

    Returns:
        (K,) int64 rows that are kept, rising.
    """
    kept = torch.zeros(0, dtype=torch.long, device=boxes.device)
    for start in range(0, len(boxes), BLOCK):
        block = boxes[start : start + BLOCK]
        alive = torch.ones(len(block), dtype=torch.bool, device=boxes.device)
        for rows in kept.split(BLOCK):
            alive &= ~removes(boxes[rows], block).any(0)
        removed_by = removes(block, block).triu(1)
        stays, before = alive, None
        while before is None or not torch.equal(stays, before):
            before, stays = stays, alive & ~(removed_by & stays[:, None]).any(0)
        kept = torch.cat([kept, start + stays.nonzero()[:, 0]])
    return kept


def overlapping_upright(limit: float, offset: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Whether upright boxes (x1, y1, x2, y2) overlap by more than ``limit`` of their union.

    Args:
        limit: IoU.
        offset: What a width is more than x2 - x1: 1 where the corners are pixels.
    """

    def overlap(first: Tensor, second: Tensor) -> Tensor:
        return upright_overlaps(first[:, None], second[None], offset) > limit

    return overlap


def upright_overlaps(first: Tensor, second: Tensor, offset: int) -> Tensor:
    """IoU (...) of boxes (..., 4) that stand side by side; see ``overlapping_upright``."""
    sides = torch.minimum(first[..., 2:], second[..., 2:]) - torch.maximum(first[..., :2], second[..., :2]) + offset
    shared = sides.clamp(min=0).prod(-1)
    area1, area2 = ((boxes[..., 2:] - boxes[..., :2] + offset).prod(-1) for boxes in (first, second))
    return shared / (area1 + area2 - shared)


def overlapping_rotated(limit: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Whether boxes (x, y, w, h, angle), with or without a label behind, overlap too much.

    mmcv has two rules: on a GPU by more than ``limit`` and within a label, on a CPU by ``limit`` or more, whatever the
    labels are. Both are kept, each on its device.
    """

    def overlap(first: Tensor, second: Tensor) -> Tensor:
        shared = in_chunks(rotated_overlaps, first[:, :5], second[:, :5])
        if first.device.type == 'cpu':
            return shared >= limit
        return (shared > limit) & (first[:, None, 5:] == second[None, :, 5:]).all(-1)

    return overlap


def overlapping_from_above(limit: float, with_yaw: bool = True) -> Callable[[Tensor, Tensor], Tensor]:
    """Whether boxes (x, y, z, dx, dy, dz, yaw), seen from above, overlap by more than ``limit`` of their union."""

    def overlaps(first: Tensor, second: Tensor) -> Tensor:
        shared = shared_area(first, second)
        area1, area2 = (boxes[..., 2:4].double().prod(-1) for boxes in (first, second))
        return shared / (area1 + area2 - shared).clamp(min=SMALLEST_UNION)

    def overlap(first: Tensor, second: Tensor) -> Tensor:
        first, second = (seen_from_above(boxes, with_yaw) for boxes in (first, second))
        return in_chunks(overlaps, first, second) > limit

    return overlap


def seen_from_above(boxes: Tensor, with_yaw: bool = True) -> Tensor:
    """(N, 5) boxes (x, y, dx, dy, yaw) of (N, 7) boxes (x, y, z, dx, dy, dz, yaw)."""
    flat = boxes[:, [0, 1, 3, 4, 6]]
    return flat if with_yaw else torch.cat([flat[:, :4], torch.zeros_like(flat[:, 4:])], 1)


def soft_keep(boxes: Tensor, scores: Tensor, weight: Callable[[Tensor], Tensor], min_score: float, offset: int) -> tuple[Tensor, Tensor]:
    """Boxes in the order in which soft suppression takes them, and their scores by then.

    Each box taken lowers the scores of those left, so there is one step a box and no other way.

    Args:
        boxes: (N, 4) upright boxes.
        scores: (N,).
        weight: Factor of a score by the IoU with a box taken.
        min_score: Below it a box is dropped once another was taken.
        offset: See ``overlapping_upright``.

    Returns:
        (K,) int64 rows and (K,) scores.
    """
    scores, left = scores.clone(), torch.ones(len(scores), dtype=torch.bool)
    taken: list[int] = []
    while left.any():
        best = int(torch.where(left, scores, -torch.inf).argmax())
        taken.append(best)
        left[best] = False
        factor = weight(upright_overlaps(boxes[best], boxes, offset))
        scores = torch.where(left, scores * factor, scores)
        left &= scores >= min_score
    rows = torch.tensor(taken, dtype=torch.long)
    return rows, scores[rows]
