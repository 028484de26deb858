"""Features of the points of each voxel, reduced to one row.

Letters: P points, C channels, D numbers of a cell, V voxels that hold a point.

Source: the rules (a point with a negative cell is left out, voxels in lexicographic order, the gradient of a maximum
goes to the first point that reaches it) are those of mmcv 2.1.0's ``DynamicScatter`` on CUDA.
"""

from __future__ import annotations

import torch
from torch import Tensor

REDUCTIONS = ('sum', 'mean', 'max')


def check_reduction(reduction: str) -> None:
    """Raise ValueError for an unknown reduction."""
    if reduction not in REDUCTIONS:
        raise ValueError(f'reduce_type must be one of {", ".join(REDUCTIONS)}, got {reduction!r}')


def group_by_cell(cells: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Voxels of points.

    Args:
        cells: (P, D) integers; a row with a negative number lies in no voxel.

    Returns:
        The cells of the voxels (V, D), the voxel of each point (P,), -1 for none, and its points' number (V,), all
        of the type of ``cells``.
    """
    inside = (cells >= 0).all(1)
    keys = torch.zeros(len(cells), dtype=torch.long, device=cells.device)
    for column in cells.long().clamp(min=0).unbind(1):
        keys = keys * (column.amax() + 1) + column if len(cells) else keys
    _, numbers, counts = torch.unique(keys[inside], return_inverse=True, return_counts=True)
    voxels = cells.new_empty(len(counts), cells.shape[1])
    voxels[numbers] = cells[inside]  # the points of a voxel write the same
    voxel_of_point = cells.new_full((len(cells),), -1)
    voxel_of_point[inside] = numbers.to(cells.dtype)
    return voxels, voxel_of_point, counts.to(cells.dtype)


def reduce_points(features: Tensor, voxel_of_point: Tensor, counts: Tensor, reduction: str) -> Tensor:
    """(V, C): sum, mean or maximum of the features (P, C) of each voxel's points."""
    inside = (voxel_of_point >= 0).nonzero()[:, 0]
    rows, features = voxel_of_point[inside].long(), features[inside]
    result = features.new_zeros(len(counts), features.shape[1])
    if reduction == 'max':
        return result.scatter_reduce(0, rows[:, None].expand_as(features), features, 'amax', include_self=False)
    result.index_add_(0, rows, features)
    return result / counts[:, None] if reduction == 'mean' else result


def spread_gradient(grad: Tensor, features: Tensor, reduced: Tensor, voxel_of_point: Tensor, counts: Tensor, reduction: str) -> Tensor:
    """Gradient (P, C) of the features, from that of the voxels (V, C); zero for a point in no voxel."""
    result = torch.zeros_like(features)
    inside = (voxel_of_point >= 0).nonzero()[:, 0]
    rows = voxel_of_point[inside].long()
    if reduction != 'max':
        result[inside] = (grad / counts[:, None] if reduction == 'mean' else grad)[rows]
        return result
    points = inside[:, None].expand(-1, features.shape[1])
    reaches = features[inside] == reduced[rows]
    first = torch.full_like(grad, len(features), dtype=torch.long)
    first.scatter_reduce_(0, rows[:, None].expand_as(points), torch.where(reaches, points, len(features)), 'amin')
    with_bin = torch.cat([result, result[:1]])  # a voxel of NaN has no point that reaches its maximum
    return with_bin.scatter_(0, first, grad)[:-1]
