"""Point clouds to voxels, with sorting in place of a lookup table over the grid.

Letters: B samples, P points (of all of them), C channels of a point (x, y, z first, metres), V voxels that hold a point,
S points stored in voxels, M ``max_num_points``. Coordinates are cell indices in the order (x, y, z).

The samples of a batch are sorted together, so that the host waits for the device once a batch: for V and S.

Source: the rule (cell index in float32, first points of a voxel kept, voxels numbered as they appear, points
of a known voxel still taken when no new voxel is) is that of the hard voxelisation of SECOND (Yan et al.,
Sensors 2018) as in mmdetection3d ``projects/BEVFusion/bevfusion/ops/voxel``; checked bit for bit against it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


class _StoredPoints(NamedTuple):
    """Which point lies where: rows of points grouped by voxel, and the voxels themselves."""

    rows: Tensor  # (S,) row of a stored point, in voxel order and then in point order
    voxels: Tensor  # (S,) int32 its voxel
    slots: Tensor  # (S,) int32 its place in the voxel, 0..M-1
    starts: Tensor  # (V + 1,) where the points of each voxel begin, and where those of the last one end
    coords: Tensor  # (V, 4) int32, sample first
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
        raise ValueError(
            f'expected 3 numbers in voxel_size and 6 in point_cloud_range, got {list(voxel_size)} and {list(point_cloud_range)}'
        )
    size = np.array(voxel_size, np.float32)
    lower, upper = np.array(point_cloud_range, np.float32).reshape(2, 3)
    if not ((size > 0).all() and (upper > lower).all()):
        raise ValueError(
            f'voxel_size {list(voxel_size)} must be positive and point_cloud_range '
            f'{list(point_cloud_range)} must be (lower x, y, z, upper x, y, z)'
        )
    x, y, z = np.floor((upper - lower) / size + np.float32(0.5)).astype(int).tolist()
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
    lower, size, grid = _grid_on(points.device, tuple(voxel_size), tuple(point_cloud_range))
    cells = ((points[:, :3].detach().float() - lower) / size).floor()
    # Compared as floats: what does not fit an integer is outside too, and NaN fails both tests.
    inside = ((cells >= 0) & (cells < grid)).all(dim=1, keepdim=True)
    return torch.where(inside, cells, -1.0).int()


@functools.lru_cache(maxsize=16)
def _grid_on(device: torch.device, voxel_size: tuple[float, ...], point_cloud_range: tuple[float, ...]) -> tuple[Tensor, ...]:
    """Lower corner, cell size and number of cells, (3,) float32 each. Kept, since copies to a GPU cost more than their use; not
    plain numbers, since a GPU divides by those with another rounding."""
    numbers = point_cloud_range[:3], voxel_size, grid_size(voxel_size, point_cloud_range)
    return tuple(torch.tensor(values, dtype=torch.float32, device=device) for values in numbers)


def hard_voxelize(
    points: Tensor, voxel_size: Sequence[float], point_cloud_range: Sequence[float], max_num_points: int, max_voxels: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Points of every voxel of one sample, padded with zeros: see ``hard_voxelize_batch``.

    Returns:
        Voxels (V, max_num_points, C), their cells (V, 3) int32 in the order (x, y, z), and the number of
        points stored in each (V,) int32.
    """
    voxels, coords, counts = hard_voxelize_batch([points], voxel_size, point_cloud_range, max_num_points, max_voxels)
    return voxels, coords[:, 1:], counts


def hard_voxelize_batch(
    samples: Sequence[Tensor], voxel_size: Sequence[float], point_cloud_range: Sequence[float], max_num_points: int, max_voxels: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Points of every voxel, padded with zeros.

    Args:
        samples: One (P_b, C) for each sample, metres.
        voxel_size: Edge lengths (x, y, z), metres.
        point_cloud_range: (x, y, z) of the lower and then of the upper corner, metres.
        max_num_points: Points stored in a voxel, the first ones in the order of the sample.
        max_voxels: Voxels stored of each sample, the first ones that a point falls into.

    Returns:
        Voxels (V, max_num_points, C), their cells (V, 4) int32 in the order (sample, x, y, z), and the number of
        points stored in each (V,) int32.
    """
    points, stored = _store(samples, voxel_size, point_cloud_range, max_num_points, max_voxels)
    voxels = points.new_zeros(len(stored.coords), max_num_points, points.shape[1])
    voxels[stored.voxels.long(), stored.slots.long()] = points[stored.rows]
    return voxels, stored.coords, stored.counts


def mean_voxels(
    points: Tensor, voxel_size: Sequence[float], point_cloud_range: Sequence[float], max_num_points: int, max_voxels: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean of the points of every voxel of one sample: see ``mean_voxels_batch``.

    Returns:
        Means (V, C), in float32 at least, cells (V, 3) int32 in the order (x, y, z), and the number of
        points stored in each voxel (V,) int32.
    """
    means, coords, counts = mean_voxels_batch([points], voxel_size, point_cloud_range, max_num_points, max_voxels)
    return means, coords[:, 1:], counts


def mean_voxels_batch(
    samples: Sequence[Tensor], voxel_size: Sequence[float], point_cloud_range: Sequence[float], max_num_points: int, max_voxels: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean of the points of every voxel, without the padded tensor of ``hard_voxelize_batch``, whose arguments these are.

    Returns:
        Means (V, C), in float32 at least, cells (V, 4) int32 in the order (sample, x, y, z), and the number of
        points stored in each voxel (V,) int32.
    """
    points, stored = _store(samples, voxel_size, point_cloud_range, max_num_points, max_voxels)
    values = points.to(torch.promote_types(points.dtype, torch.float32))
    # A bag is summed in order, so the result is the same in every run, on a GPU too.
    sums = F.embedding_bag(stored.rows, values, stored.starts, mode='sum', include_last_offset=True)
    return sums / stored.counts[:, None], stored.coords, stored.counts


def _store(
    samples: Sequence[Tensor], voxel_size: Sequence[float], point_cloud_range: Sequence[float], max_num_points: int, max_voxels: int
) -> tuple[Tensor, _StoredPoints]:
    """All points (P, C), and the choice of those that are stored: by a stable sort over cells and one over voxels."""
    if max_num_points < 1 or max_voxels < 1:
        raise ValueError(
            f'max_num_points and max_voxels must be >= 1, got {max_num_points} and {max_voxels}; '
            'for cells without a limit use dynamic_voxelize'
        )
    points, sizes = torch.cat(list(samples)), [len(sample) for sample in samples]
    cells = dynamic_voxelize(points, voxel_size, point_cloud_range)
    sample = torch.cat([cells.new_full((size,), index) for index, size in enumerate(sizes)])
    keys, no_cell = _cell_numbers(sample, cells, (len(sizes), *grid_size(voxel_size, point_cloud_range)))
    keys, order = keys.sort(stable=True)
    is_first = torch.ones_like(keys, dtype=torch.bool)
    is_first[1:] = keys[1:] != keys[:-1]
    place = torch.arange(len(keys), dtype=torch.int32, device=keys.device)
    start = torch.where(is_first, place, 0).cummax(0)[0]  # of the cell among the sorted points
    first = order.index_select(0, start)  # the sort is stable: the first point in the cell
    opens = torch.empty_like(is_first).scatter_(0, order, is_first & (keys < no_cell))  # whether a point is the first one
    opens &= torch.cat([part.cumsum(0, dtype=torch.int32) <= max_voxels for part in opens.split(sizes)])
    slot, voxel = place - start, opens.cumsum(0, dtype=torch.int32) - 1
    kept = opens.index_select(0, first) & (slot < max_num_points)
    voxels, by_voxel = torch.where(kept, voxel.index_select(0, first), len(keys)).sort(stable=True)
    n_voxels, n_stored = torch.stack([opens.sum(), kept.sum()]).tolist()  # the host waits here
    voxels, by_voxel = voxels[:n_stored], by_voxel[:n_stored]
    starts = torch.searchsorted(voxels, torch.arange(n_voxels + 1, dtype=voxels.dtype, device=voxels.device))
    rows = order.index_select(0, by_voxel)
    heads = rows.index_select(0, starts[:-1])
    coords = torch.cat([sample.index_select(0, heads)[:, None], cells.index_select(0, heads)], dim=1)
    return points, _StoredPoints(rows, voxels, slot.index_select(0, by_voxel), starts, coords, starts.diff().int())


def _cell_numbers(sample: Tensor, cells: Tensor, grid: tuple[int, int, int, int]) -> tuple[Tensor, int]:
    """(P,) number of the cell of each point in a grid of (B, nx, ny, nz) cells, and the number of those that lie in none.
    int32, which is sorted faster, where the cells of the batch can be counted in it."""
    dtype = torch.int32 if math.prod(grid) <= torch.iinfo(torch.int32).max else torch.int64
    no_cell = torch.iinfo(dtype).max
    x, y, z = cells.unbind(1)
    numbers = ((sample.to(dtype) * grid[1] + x) * grid[2] + y) * grid[3] + z
    return torch.where(x >= 0, numbers, no_cell), no_cell
