"""A demo-size lidar encoder and the voxels of a made-up scene for it, without any data."""

from __future__ import annotations

import torch
from torch import Tensor

from bevfusion_plugin.models.lidar.sparse_encoder import BEVFusionSparseEncoder

GRID = (48, 48, 25)


def encoder_and_voxels() -> tuple[BEVFusionSparseEncoder, Tensor, Tensor]:
    """The encoder in evaluation mode (BatchNorm would amplify round-off), features (V, 5) and coordinates (V, 4) of two samples."""
    torch.manual_seed(0)
    encoder = BEVFusionSparseEncoder(
        5,
        GRID,
        base_channels=16,
        output_channels=32,
        encoder_channels=((16, 16), (16, 32), (32,)),
        encoder_paddings=((0, 1), (0, 1), (0,)),
        block_type='basicblock',
    ).eval()
    generator = torch.Generator().manual_seed(0)
    # A sloping ground and a wall: surfaces, as a lidar sees them.
    x, y = torch.meshgrid(torch.arange(GRID[0]), torch.arange(GRID[1]), indexing='ij')
    ground = torch.stack([x, y, (x + y) // 16 + 3], dim=-1).view(-1, 3)
    wall = torch.stack([torch.full_like(x, 20), y, x // 3], dim=-1).view(-1, 3)
    sites = torch.cat([ground, wall]).unique(dim=0)
    both = [sites[torch.rand(len(sites), generator=generator) < 0.7] for _ in range(2)]
    coords = torch.cat([torch.nn.functional.pad(each, (1, 0), value=index) for index, each in enumerate(both)]).int()
    return encoder, torch.randn(len(coords), 5, generator=generator), coords
