"""Times voxelisation of ten lidar sweeps with the limits of BEVFusion's training against mmcv's compiled operator.

Example:
    python benchmarks/voxelize.py --threads 1
"""

from __future__ import annotations

from compiled_mmcv import need_compiled_operators
from lidar_cloud import POINT_CLOUD_RANGE, VOXEL_SIZE, lidar_cloud
from side_by_side import Computation, compare, parse_args
from torch import Tensor

from bevfusion_plugin.ops import hard_voxelize, mean_voxels

LIMITS = dict(max_num_points=10, max_voxels=120000)


def mmcv_operator() -> Computation:
    """mmcv's ``Voxelization``, whose coordinates are (z, y, x), and the mean over its padded voxels."""
    from mmcv.ops import Voxelization

    points, voxelization = lidar_cloud(10), Voxelization(VOXEL_SIZE, POINT_CLOUD_RANGE, **LIMITS)

    def compute() -> list[Tensor]:
        voxels, coords, counts = voxelization(points)
        return [voxels.sum(dim=1) / counts[:, None], coords.flip(1), counts]

    return compute


def padded() -> Computation:
    points = lidar_cloud(10)

    def compute() -> list[Tensor]:
        voxels, coords, counts = hard_voxelize(points, VOXEL_SIZE, POINT_CLOUD_RANGE, **LIMITS)
        return [voxels.sum(dim=1) / counts[:, None], coords, counts]

    return compute


def mean() -> Computation:
    points = lidar_cloud(10)
    return lambda: list(mean_voxels(points, VOXEL_SIZE, POINT_CLOUD_RANGE, **LIMITS))


def main() -> None:
    args = parse_args(__doc__)
    need_compiled_operators()
    formulations = {'mmcv.ops.Voxelization and mean': mmcv_operator, 'hard_voxelize and mean': padded, 'mean_voxels': mean}
    compare(f'voxelisation of {len(lidar_cloud(10)):,} points', formulations, args)


if __name__ == '__main__':
    main()
