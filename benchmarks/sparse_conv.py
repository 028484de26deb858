"""Times BEVFusion's full-size lidar encoder (1440 x 1440 x 41 voxels) in our own torch code, in the form for CPUs (offset by
offset) and in that for GPUs (all offsets at once).

spconv, where it is installed, runs beside it: forward only and on one thread, since on a CPU it has no backward
and computes wrong values with more threads.

Example:
    python benchmarks/sparse_conv.py --threads 2
"""

from __future__ import annotations

import functools
import importlib.util

import torch
import torch.nn.functional as F
from lidar_cloud import POINT_CLOUD_RANGE, VOXEL_SIZE, lidar_cloud
from side_by_side import Computation, compare, parse_args
from torch import Tensor

from bevfusion_plugin.models.lidar.sparse_encoder import BEVFusionSparseEncoder
from bevfusion_plugin.ops import mean_voxels
from bevfusion_plugin.ops.sparse import conv as sparse_conv
from bevfusion_plugin.ops.sparse import torch_convolution
from bevfusion_plugin.ops.sparse.spconv_convolution import spconv_convolution


def encoder_and_voxels(sweeps: int) -> tuple[BEVFusionSparseEncoder, Tensor, Tensor]:
    """The encoder of the nuScenes recipes, voxel features and coordinates (sample, x, y, z)."""
    feats, coords, _ = mean_voxels(lidar_cloud(sweeps), VOXEL_SIZE, POINT_CLOUD_RANGE, 10, 120000)
    encoder = BEVFusionSparseEncoder(
        in_channels=5,
        sparse_shape=[1440, 1440, 41],
        encoder_channels=((16, 16, 32), (32, 32, 64), (64, 64, 128), (128, 128)),
        encoder_paddings=((0, 0, 1), (0, 0, 1), (0, 0, (1, 1, 0)), (0, 0)),
        block_type='basicblock',
    )
    return encoder, feats, F.pad(coords, (1, 0))


def torch_forward(sweeps: int) -> Computation:
    encoder, feats, coords = encoder_and_voxels(sweeps)
    encoder.eval().requires_grad_(False)
    return lambda: [encoder(feats, coords, 1)]


def all_offsets_forward(sweeps: int) -> Computation:
    torch_convolution.OffsetByOffset = torch_convolution.AllOffsets  # never chosen on a CPU by itself
    return torch_forward(sweeps)


def spconv_forward(sweeps: int) -> Computation:
    import spconv.pytorch as spconv

    torch.set_num_threads(1)
    sparse_conv.convolution = functools.partial(spconv_convolution, spconv)  # never chosen on a CPU by itself
    return torch_forward(sweeps)


def torch_training(sweeps: int) -> Computation:
    encoder, feats, coords = encoder_and_voxels(sweeps)
    feats.requires_grad_()

    def compute() -> list[Tensor]:
        bev = encoder(feats, coords, 1)
        return [bev, *torch.autograd.grad(bev.square().sum(), [feats, *encoder.parameters()])]

    return compute


def main() -> None:
    args = parse_args(__doc__)
    forward = {'torch': torch_forward, 'torch, all offsets at once': all_offsets_forward}
    if importlib.util.find_spec('spconv'):
        forward['spconv on one thread'] = spconv_forward
    for sweeps in (1, 10):
        n_voxels = len(encoder_and_voxels(sweeps)[1])
        compare(f'encoder forward, {n_voxels:,} voxels', forward, args, sweeps=sweeps)
        compare(f'encoder forward and backward, {n_voxels:,} voxels', {'torch': torch_training}, args, sweeps=sweeps)


if __name__ == '__main__':
    main()
