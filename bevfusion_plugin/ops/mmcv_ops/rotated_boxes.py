"""Area that rotated rectangles share, and what follows from it.

Letters: N first boxes, M second boxes. A box is (x, y, w, h, angle): centre, size along its own axes, radians,
counter-clockwise where y points up.

Source: Green's theorem. The area of A within B is the integral over A's outline of -f dx, where f is y held within
B's height and x is held within B's width, in B's frame. Four edges give it, with nothing to sort: touching, equal and
flat boxes are no special cases. It is computed in float64: where a small box lies at the end of a long one, float32 loses
the digits that count. Checked against polygons of shapely and numbers recorded from mmcv 2.1.0.
"""
from __future__ import annotations

import torch
from torch import Tensor

SMALLEST_AREA = 1e-14  # below it mmcv calls a box empty
MOST_PAIRS = 1 << 17  # compared at once: a temporary of 4 edges in float64 has 4 MiB


def shared_area(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Area of the intersection of rotated rectangles.

    Args:
        boxes1: (..., 5).
        boxes2: (..., 5), leading sizes that broadcast with those of ``boxes1``.

    Returns:
        (...) float64, not negative.
    """
    boxes1, boxes2 = boxes1.double(), boxes2.double()
    start_x, start_y, step_x, step_y = _edges(boxes1, boxes2)
    half_w, half_h = (boxes2[..., 2:4] / 2)[..., None, :].unbind(-1)  # (..., 1)
    left, right = _held(start_x, half_w), _held(start_x + step_x, half_w)
    slope = torch.where(step_x == 0, torch.ones_like(step_x), step_x)
    y0 = start_y + ((left - start_x) / slope).clamp(0, 1) * step_y
    y1 = start_y + ((right - start_x) / slope).clamp(0, 1) * step_y
    return ((left - right) * _mean_height(y0, y1, half_h)).sum(-1).clamp(min=0)


def _edges(boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Corners (..., 4) of the first boxes in the frame of the second, counter-clockwise, and the steps to the next one."""
    x, y = (boxes1[..., :2] - boxes2[..., :2]).unbind(-1)
    cos, sin = boxes2[..., 4].cos(), boxes2[..., 4].sin()
    centre_x, centre_y = x * cos + y * sin, y * cos - x * sin
    turn = boxes1[..., 4] - boxes2[..., 4]
    w, h = boxes1[..., 2], boxes1[..., 3]
    along_x, along_y = w * turn.cos(), w * turn.sin()
    up_x, up_y = -h * turn.sin(), h * turn.cos()
    step_x = torch.stack([along_x, up_x, -along_x, -up_x], -1)
    step_y = torch.stack([along_y, up_y, -along_y, -up_y], -1)
    start_x = centre_x[..., None] - torch.stack([along_x + up_x, up_x - along_x, -along_x - up_x, along_x - up_x], -1) / 2
    start_y = centre_y[..., None] - torch.stack([along_y + up_y, up_y - along_y, -along_y - up_y, along_y - up_y], -1) / 2
    return start_x, start_y, step_x, step_y


def _held(values: Tensor, limit: Tensor) -> Tensor:
    """Values within -limit and limit."""
    return torch.minimum(torch.maximum(values, -limit), limit)


def _mean_height(y0: Tensor, y1: Tensor, half_h: Tensor) -> Tensor:
    """Mean of y held within the height, on a straight way from y0 to y1.

    The way is level at the held y0, rises to the held y1 and is level again; on the rise the mean is half of it.
    """
    low, high = _held(y0, half_h), _held(y1, half_h)
    way = (y1 - y0).abs()
    share = ((high - low).abs() / 2 + (y1 - high).abs()) / torch.where(way == 0, torch.ones_like(way), way)
    return low + (high - low) * share.clamp(0, 1)


def rotated_overlaps(boxes1: Tensor, boxes2: Tensor, of_first: bool = False) -> Tensor:
    """Intersection over union, or over the first box, of boxes that stand side by side.

    Args:
        boxes1: (..., 5).
        boxes2: (..., 5), leading sizes that broadcast with those of ``boxes1``.
        of_first: Divide by the area of the first box ("iof").

    Returns:
        (...) float64 in [0, 1] but for round-off; 0 where a box has no area.
    """
    boxes1, boxes2 = boxes1.double(), boxes2.double()
    area1, area2 = boxes1[..., 2] * boxes1[..., 3], boxes2[..., 2] * boxes2[..., 3]
    shared = shared_area(boxes1, boxes2)
    whole = area1.expand_as(shared) if of_first else area1 + area2 - shared
    is_empty = (area1 < SMALLEST_AREA) | (area2 < SMALLEST_AREA)
    return torch.where(is_empty, torch.zeros_like(shared), shared / whole)


def in_chunks(function, boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """``function`` of every box (N, ...) with every other (M, ...), some rows at a time: (N, M)."""
    rows = max(1, MOST_PAIRS // max(1, len(boxes2)))
    return torch.cat([function(part[:, None], boxes2[None]) for part in boxes1.split(rows)])
