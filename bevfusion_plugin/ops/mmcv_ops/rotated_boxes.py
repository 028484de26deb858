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
    start, step = _edges(boxes1, boxes2)
    half_w, half_h = (boxes2[..., 2:4] / 2)[..., None, :].unbind(-1)  # (..., 1)
    held = _held(start.real, half_w)
    ends = torch.stack([held, held.roll(-1, -1)])  # (2, ..., 4): x of both ends, within the width
    way = step.real.masked_fill(step.real == 0, 1)
    heights = start.imag + ((ends - start.real) / way).clamp(0, 1) * step.imag
    return ((ends[0] - ends[1]) * _mean_height(heights, half_h)).sum(-1).clamp(min=0)


def _edges(boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor]:
    """Corners (..., 4) of the first boxes in the frame of the second, counter-clockwise, and the steps to the next one.

    They are complex numbers x + iy, whose product is a rotation.
    """
    (w, h), turn = boxes1[..., 2:4].unbind(-1), boxes1[..., 4] - boxes2[..., 4]
    centre = torch.view_as_complex(boxes1[..., :2] - boxes2[..., :2]) * _unit(-boxes2[..., 4])
    one, other = (_unit(turn) * half for half in (torch.complex(w, h) / 2, torch.complex(w, -h) / 2))  # from the centre to two corners
    start = centre[..., None] + torch.stack([-one, other, one, -other], -1)
    return start, start.roll(-1, -1) - start


def _unit(angle: Tensor) -> Tensor:
    return torch.polar(angle.new_ones(()).expand_as(angle), angle)


def _held(values: Tensor, limit: Tensor) -> Tensor:
    """Values within -limit and limit."""
    return values.clamp(-limit, limit)


def _mean_height(heights: Tensor, half_h: Tensor) -> Tensor:
    """Mean (..., 4) of y held within the height, on straight ways between two heights y (2, ..., 4).

    A way is level at the first one held, rises to the second one held and is level again; on the rise the mean is half of it.
    """
    low, high = _held(heights, half_h)
    start, end = heights
    way, climb = (end - start).abs(), high - low
    share = (climb.abs() / 2 + (end - high).abs()) / way.masked_fill(way == 0, 1)
    return low + climb * share.clamp(0, 1)


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
    return (shared / whole).masked_fill(is_empty, 0)


def in_chunks(function, boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """``function`` of every box (N, ...) with every other (M, ...), some rows at a time: (N, M)."""
    rows = max(1, MOST_PAIRS // max(1, len(boxes2)))
    return torch.cat([function(part[:, None], boxes2[None]) for part in boxes1.split(rows)])
