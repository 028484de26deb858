"""Which points lie in which boxes.

Letters: P points (x, y, z), T boxes (x, y, z, dx, dy, dz, yaw), z at the bottom, metres and radians.

Source: the rule (top and bottom belong to a box, its sides do not) is that of mmcv 2.1.0's ``points_in_boxes``.
"""

from __future__ import annotations

import torch
from torch import Tensor

MOST_PAIRS = 1 << 20  # compared at once: a temporary in float32 has 4 MiB


def inside_boxes(points: Tensor, boxes: Tensor) -> Tensor:
    """Whether each point lies in each box.

    Args:
        points: (P, 3).
        boxes: (T, 7).

    Returns:
        (P, T) bool.
    """
    rows = max(1, MOST_PAIRS // max(1, len(boxes)))
    cos, sin = boxes[:, 6].cos(), boxes[:, 6].sin()
    half_x, half_y, half_z = (boxes[:, 3:6] / 2).unbind(1)
    parts = []
    for part in points.split(rows):
        x, y, z = (part[:, None] - boxes[None, :, :3]).unbind(-1)  # (rows, T)
        along, across = x * cos + y * sin, y * cos - x * sin
        parts.append((along.abs() < half_x) & (across.abs() < half_y) & ((z - half_z).abs() <= half_z))
    return torch.cat(parts)


def first_box(inside: Tensor) -> Tensor:
    """(P,) index of the first box of each row of ``inside`` (P, T), -1 without one."""
    count = inside.shape[1]
    numbers = torch.arange(count, device=inside.device).expand_as(inside)
    first = torch.where(inside, numbers, count)
    first = torch.cat([first, first.new_full((len(first), 1), count)], 1).amin(1)
    return torch.where(first == count, -1, first)
