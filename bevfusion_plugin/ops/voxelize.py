"""Point clouds to voxels, with sorting in place of a lookup table over the grid.

Letters: P points, C channels of a point (x, y, z first, metres), V voxels that hold a point,
M ``max_num_points``. Coordinates are cell indices in the order (x, y, z).

Source: the rule (cell index in float32, first points of a voxel kept, voxels numbered as they appear, points
of a known voxel still taken when no new voxel is) is that of the hard voxelisation of SECOND (Yan et al.,
Sensors 2018) as in mmdetection3d ``projects/BEVFusion/bevfusion/ops/voxel``; checked bit for bit against it.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class _StoredPoints(NamedTuple):
    """Which point lies where: rows of points grouped by voxel, and the voxels themselves."""
    rows: Tensor  # (S,) row of a stored point, in voxel order and then in point order
    voxels: Tensor  # (S,) its voxel
    slots: Tensor  # (S,) its place in the voxel, 0..M-1
    coords: Tensor  # (V, 3) int32
    counts: Tensor  # (V,) int32 points stored in a voxel


def grid_size(voxel_size: Sequence[float], point_cloud_range: Sequence[float]) -> tuple[int, int, int]:
    """Number of cells along x, y, z.

    Args:
        voxel_size: Edge lengths (x, y, z), metres.
        point_cloud_range: (x, y, z) of the lower and then of the upper corner, metres.

    Returns:
        The range over the voxel size, in float32, rounded half up.

    Raises:
        ValueError: If a length is wrong or a size is not positive.
    """
    if len(voxel_size) != 3 or len(point_cloud_range) != 6:
        raise ValueError('expected 3 numbers in voxel_size and 6 in point_cloud_range, '
                         f'got {list(voxel_size)} and {list(point_cloud_range)}')
    size = torch.tensor(voxel_size, dtype=torch.float32)
    lower, upper = torch.tensor(point_cloud_range, dtype=torch.float32).view(2, 3)
    if not ((size > 0).all() and (upper > lower).all()):
        raise ValueError(f'voxel_size {list(voxel_size)} must be positive and point_cloud_range '
                         f'{list(point_cloud_range)} must be (lower x, y, z, upper x, y, z)')
    x, y, z = ((upper - lower) / size + 0.5).floor().int().tolist()
    return x, y, z


def dynamic_voxelize(points: Tensor, voxel_size: Sequence[float], point_cloud_range: Sequence[float]) -> Tensor:
    """Cell of every point.

    Args:
        points: (P, C), metres; NaN and infinite coordinates lie in no cell.
        voxel_size: Edge lengths (x, y, z), metres.
        point_cloud_range: (x, y, z) of the lower and then of the upper corner, metres.

    Returns:
        (P, 3) int32 cell indices (x, y, z), (-1, -1, -1) for a point outside the range. They are computed in
        float32 whatever the dtype of the points, since a border case would otherwise land in another cell.
    """
    grid = torch.tensor(grid_size(voxel_size, point_cloud_range), device=points.device)
    size = torch.tensor(voxel_size, dtype=torch.float32, device=points.device)
    lower = torch.tensor(point_cloud_range[:3], dtype=torch.float32, device=points.device)
    cells = ((points[:, :3].detach().float() - lower) / size).floor()
    # Compared as floats: what does not fit an integer is outside too, and NaN fails both tests.
    inside = ((cells >= 0) & (cells < grid)).all(dim=1, keepdim=True)
    return torch.where(inside, cells, -1.).int()


def hard_voxelize(points: Tensor, voxel_size: Sequence[float], point_cloud_range: Sequence[float],
                  max_num_points: int, max_voxels: int) -> tuple[Tensor, Tensor, Tensor]:
    """Points of every voxel, padded with zeros.

    Args:
        points: (P, C), metres.
        voxel_size: Edge lengths (x, y, z), metres.
        point_cloud_range: (x, y, z) of the lower and then of the upper corner, metres.
        max_num_points: Points stored in a voxel, the first ones in the order of ``points``.
        max_voxels: Voxels stored, the first ones that a point falls into.

    Returns:
        Voxels (V, max_num_points, C), their cells (V, 3) int32 in the order (x, y, z), and the number of
        points stored in each (V,) int32.
    """
    stored = _store(points, voxel_size, point_cloud_range, max_num_points, max_voxels)
    voxels = points.new_zeros(len(stored.coords), max_num_points, points.shape[1])
    voxels[stored.voxels, stored.slots] = points[stored.rows]
    return voxels, stored.coords, stored.counts


def mean_voxels(points: Tensor, voxel_size: Sequence[float], point_cloud_range: Sequence[float],
                max_num_points: int, max_voxels: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean of the points of every voxel, without the padded tensor of ``hard_voxelize``.

    Args:
        points: (P, C), metres.
        voxel_size: Edge lengths (x, y, z), metres.
        point_cloud_range: (x, y, z) of the lower and then of the upper corner, metres.
        max_num_points: Points stored in a voxel, the first ones in the order of ``points``.
        max_voxels: Voxels stored, the first ones that a point falls into.

    Returns:
        Means (V, C), in float32 at least, cells (V, 3) int32 in the order (x, y, z), and the number of
        points stored in each voxel (V,) int32.
    """
    stored = _store(points, voxel_size, point_cloud_range, max_num_points, max_voxels)
    values = points.to(torch.promote_types(points.dtype, torch.float32))
    ends = stored.counts.long().cumsum(0)
    # A bag is summed in order, so the result is the same in every run, on a GPU too.
    sums = F.embedding_bag(stored.rows, values, ends - stored.counts, mode='sum')
    return sums / stored.counts[:, None], stored.coords, stored.counts


def _store(points: Tensor, voxel_size: Sequence[float], point_cloud_range: Sequence[float], max_num_points: int,
           max_voxels: int) -> _StoredPoints:
    """Choose the points that are stored, by a stable sort over cells and one over voxels."""
    if max_num_points < 1 or max_voxels < 1:
        raise ValueError(f'max_num_points and max_voxels must be >= 1, got {max_num_points} and {max_voxels}; '
                         'for cells without a limit use dynamic_voxelize')
    coords = dynamic_voxelize(points, voxel_size, point_cloud_range)
    inside = (coords[:, 0] >= 0).nonzero()[:, 0]
    x, y, z = coords[inside].long().unbind(1)
    _, n_y, n_z = grid_size(voxel_size, point_cloud_range)
    keys, order = ((x * n_y + y) * n_z + z).sort(stable=True)
    _, cell, counts = torch.unique_consecutive(keys, return_inverse=True, return_counts=True)
    starts = counts.cumsum(0) - counts
    slots = torch.arange(len(keys), device=points.device) - starts[cell]
    first = order[starts]  # the sort is stable: the first point in each cell
    appearance = first.argsort()
    voxel_of_cell = torch.empty_like(appearance)
    voxel_of_cell[appearance] = torch.arange(len(first), device=points.device)
    voxels = voxel_of_cell[cell]
    stored = ((slots < max_num_points) & (voxels < max_voxels)).nonzero()[:, 0]
    voxels, by_voxel = voxels[stored].sort(stable=True)
    stored = stored[by_voxel]
    appearance = appearance[:max_voxels]
    return _StoredPoints(inside[order[stored]], voxels, slots[stored], coords[inside[first[appearance]]],
                         counts[appearance].clamp(max=max_num_points).int())
