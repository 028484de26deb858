"""A made-up lidar cloud with the density of nuScenes, for benchmarks without data."""

from __future__ import annotations

import math

import torch
from torch import Tensor

VOXEL_SIZE, POINT_CLOUD_RANGE = [0.075, 0.075, 0.2], [-54.0, -54.0, -5.0, 54.0, 54.0, 3.0]


def lidar_cloud(sweeps: int) -> Tensor:
    """(P, 5) x, y, z, intensity, time of ``sweeps`` turns of 32 beams, about 30,000 points each.

    Beams hit flat ground 1.8 m below or, sooner, one of the walls that stand around at 8 to 50 m.
    """
    generator = torch.Generator().manual_seed(0)
    azimuth = torch.linspace(0, 2 * math.pi, 1085)
    elevation = torch.deg2rad(torch.linspace(-30, 10, 32)).view(-1, 1)
    walls = (8 + 42 * torch.rand(60, generator=generator)).repeat_interleave(19)[: len(azimuth)]
    ground = 1.8 / (-elevation.tan()).clamp(min=1e-3)
    clouds = []
    for sweep in range(sweeps):
        distance = torch.minimum(walls.expand(32, -1), ground)
        distance = distance + 0.02 * torch.randn(distance.shape, generator=generator)
        points = torch.stack(
            [
                distance * azimuth.cos(),
                distance * azimuth.sin(),
                distance * elevation.tan(),
                torch.rand(distance.shape, generator=generator),
                torch.full_like(distance, 0.05 * sweep),
            ],
            dim=-1,
        )
        clouds.append(points.flatten(0, 1))
    return torch.cat(clouds)
