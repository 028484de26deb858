"""Times BEV pooling at the full size of BEVFusion's nuScenes model against the cumulative-sum formulation.

Six cameras, 118 depth bins, a 32 x 88 feature map of 80 channels and a grid of 360 x 360 cells: 2 million frustum
points. The cumulative sum is how Lift-Splat-Shoot pools: multiply depth and features, sort the points by cell, sum
up over all of them and take the difference at the borders of the cells.

Example:
    python benchmarks/bev_pool.py --threads 2
"""

from __future__ import annotations

import math

import torch
from side_by_side import Computation, compare, parse_args
from torch import Tensor

from bevfusion_plugin.ops import bev_pool_lift, flatten_cells

CAMERAS, BINS, HEIGHT, WIDTH, CHANNELS = 6, 118, 32, 88, 80
GRID = (360, 360, 1)


def frustum_cells() -> Tensor:
    """(1, N, D, fH, fW) flat cell of each frustum point: cameras 60 degrees apart, depth 1 to 60 m."""
    depth = 1 + 0.5 * torch.arange(BINS).view(-1, 1, 1)
    right = (torch.linspace(0, 703, WIDTH) - 352) / 560 * depth  # focal length 560 pixels
    down = (torch.linspace(0, 255, HEIGHT).view(-1, 1) - 100) / 560 * depth
    cells = []
    for camera in range(CAMERAS):
        yaw = math.radians(60 * camera)
        x, y = depth * math.cos(yaw) + right * math.sin(yaw), depth * math.sin(yaw) - right * math.cos(yaw)
        points = torch.stack(torch.broadcast_tensors(x, y, -down), dim=-1)
        cells.append(((points - torch.tensor([-54.0, -54.0, -10.0])) / torch.tensor([0.3, 0.3, 20.0])).floor())
    return flatten_cells(torch.stack(cells)[None], GRID)


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    """Depth distribution, features and cells."""
    depth = torch.rand(1, CAMERAS, BINS, HEIGHT, WIDTH).softmax(dim=2).requires_grad_()
    context = torch.randn(1, CAMERAS, CHANNELS, HEIGHT, WIDTH).requires_grad_()
    return depth, context, frustum_cells()


class CumulativeSum(torch.autograd.Function):
    """Sums of sorted rows over runs of equal cells."""

    @staticmethod
    def forward(ctx, rows: Tensor, cells: Tensor) -> Tensor:
        last = torch.ones(len(cells), dtype=torch.bool)
        last[:-1] = cells[1:] != cells[:-1]
        ctx.save_for_backward(last)
        sums = rows.cumsum(0)[last]
        return torch.cat([sums[:1], sums[1:] - sums[:-1]])

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        (last,) = ctx.saved_tensors
        run = last.cumsum(0) - last.long()
        return grad[run], None


def pool_by_cumulative_sum(depth: Tensor, context: Tensor, cells: Tensor) -> Tensor:
    """(1, C, 1, nx, ny) with all frustum features built."""
    rows = (depth[:, :, None] * context[:, :, :, None]).permute(0, 1, 3, 4, 5, 2).reshape(-1, CHANNELS)
    cells = cells.flatten()
    kept = cells >= 0
    rows, cells = rows[kept], cells[kept]
    order = cells.argsort()
    sums = CumulativeSum.apply(rows[order], cells[order])
    out = sums.new_zeros(GRID[0] * GRID[1], CHANNELS)
    out[cells[order].unique_consecutive()] = sums
    return out.view(1, 1, GRID[0], GRID[1], CHANNELS).permute(0, 4, 1, 2, 3)


def cumulative_sum(backward: bool) -> Computation:
    return _computation(pool_by_cumulative_sum, backward)


def sorted_bags(backward: bool) -> Computation:
    return _computation(lambda depth, context, cells: bev_pool_lift(depth, context, cells, GRID), backward)


def _computation(pool, backward: bool) -> Computation:
    depth, context, cells = inputs()

    def compute() -> list[Tensor]:
        with torch.set_grad_enabled(backward):
            pooled = pool(depth, context, cells)
            return [pooled, *(torch.autograd.grad(pooled.square().sum(), (depth, context)) if backward else ())]

    return compute


def main() -> None:
    args = parse_args(__doc__)
    formulations = {'cumulative sum': cumulative_sum, 'bev_pool_lift': sorted_bags}
    compare('BEV pooling, forward', formulations, args, backward=False)
    compare('BEV pooling, forward and backward', formulations, args, backward=True)


if __name__ == '__main__':
    main()
