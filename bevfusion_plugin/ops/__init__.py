"""Pure tensor functions: voxelisation, BEV pooling, sparse 3D convolution."""

from bevfusion_plugin.ops.lift_splat import bev_pool, bev_pool_lift, flatten_cells
from bevfusion_plugin.ops.sparse.conv import SparseConv3d, SparseModule, SparseSequential, SubMConv3d
from bevfusion_plugin.ops.sparse.tensor import SparseTensor
from bevfusion_plugin.ops.voxelize import dynamic_voxelize, grid_size, hard_voxelize, hard_voxelize_batch, mean_voxels, mean_voxels_batch

__all__ = [
    'SparseConv3d',
    'SparseModule',
    'SparseSequential',
    'SparseTensor',
    'SubMConv3d',
    'bev_pool',
    'bev_pool_lift',
    'dynamic_voxelize',
    'flatten_cells',
    'grid_size',
    'hard_voxelize',
    'hard_voxelize_batch',
    'mean_voxels',
    'mean_voxels_batch',
]
