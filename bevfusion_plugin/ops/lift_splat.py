"""Sums of image features over the cells of a bird's eye view (BEV) grid.

Letters: B samples, N cameras, D depth bins, C channels, fH x fW feature map, P points,
nx x ny x nz cells. The points are sorted by cell; what lies in a cell then is a bag of rows to add up, which PyTorch
has an operator for (``embedding_bag``). The sort keeps the order of the points, so the sums are the same in every run, on
a GPU too.

Source: Lift, Splat, Shoot (Philion and Fidler, ECCV 2020, section 3.2); result layout and cell order of
``bev_pool`` in mit-han-lab/bevfusion and in mmdetection3d ``projects/BEVFusion``. There the features of all
frustum points, D times as many as those of the image, are built before they are summed; here
``bev_pool_lift`` takes the depth distribution as the weights in a bag of pixels, so they never exist.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class PoolingOrder(NamedTuple):
    """What ``bev_pool_lift`` makes of the cells alone: S images with Q pixels each, P = S * D * Q points, R rows of the grid."""

    rows: Tensor  # (S, D, Q) int32: the grid's row of each point, -1 outside
    order: Tensor  # (P,) int64: the points by ascending row
    pixels: Tensor  # (P,) int32: their pixels in that order, S * Q for a point outside
    starts: Tensor  # (R + 1,) int32: where the points of each row begin


def flatten_cells(cells: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """Flat cell index of every point, as ``bev_pool_lift`` takes it.

    Args:
        cells: (..., 3) integer cells (x, y, z).
        grid: Number of cells (nx, ny, nz).

    Returns:
        (...) int64 ``(z * nx + x) * ny + y``, and -1 where a cell lies outside the grid.
    """
    x, y, z = cells.long().unbind(-1)
    nx, ny, nz = grid
    inside = (x >= 0) & (x < nx) & (y >= 0) & (y < ny) & (z >= 0) & (z < nz)
    return torch.where(inside, (z * nx + x) * ny + y, -1)


def bev_pool(x: Tensor, coords: Tensor, batch_size: int, grid: tuple[int, int, int]) -> Tensor:
    """Sum of the features in each cell.

    Args:
        x: (P, C) features of points.
        coords: (P, 4) integer (x cell, y cell, z cell, sample).
        batch_size: Samples in the batch, B.
        grid: Number of cells (nx, ny, nz).

    Returns:
        (B, C, nz, nx, ny), zero where no point lies; in float32 at least, under autocast too.

    Raises:
        ValueError: If a point lies outside the grid or the batch.
    """
    cells, sample = flatten_cells(coords[:, :3], grid), coords[:, 3].long()
    if ((cells < 0) | (sample < 0) | (sample >= batch_size)).any():
        raise ValueError(f'coords must lie inside the grid {tuple(grid)} and the batch of {batch_size}; drop the other points first')
    n_cells = _volume(grid)
    order, starts = _sort_by_row((sample * n_cells + cells).int(), batch_size * n_cells)
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return _rows_to_grid(F.embedding_bag(order.int(), x, starts, mode='sum', include_last_offset=True), batch_size, grid)


def bev_pool_lift(depth: Tensor, context: Tensor, cells: Tensor, grid: tuple[int, int, int], order: PoolingOrder | None = None) -> Tensor:
    """Sum over the frustum points in each cell of depth probability times image feature.

    Equal to ``bev_pool`` of the outer product ``depth x context`` (B * N * D * fH * fW * C numbers, which are
    never built). Differentiable with respect to ``depth`` and ``context``.

    Args:
        depth: (B, N, D, fH, fW) weight of each depth bin of a pixel.
        context: (B, N, C, fH, fW) features of the pixels.
        cells: (B, N, D, fH, fW) flat cell of each frustum point from ``flatten_cells``, -1 to drop it.
        grid: Number of cells (nx, ny, nz).
        order: ``pooling_order(cells, grid)``, where it is known from an earlier call.

    Returns:
        (B, C, nz, nx, ny), zero where no point lies; in float32 at least, under autocast too.

    Raises:
        ValueError: If the shapes do not fit together.
    """
    b, n, d, f_h, f_w = depth.shape
    if cells.shape != depth.shape or context.shape != (b, n, context.shape[2], f_h, f_w):
        raise ValueError(
            f'expected cells {tuple(depth.shape)} and context ({b}, {n}, C, {f_h}, {f_w}) to fit depth, '
            f'got {tuple(cells.shape)} and {tuple(context.shape)}'
        )
    dtype = torch.promote_types(torch.promote_types(depth.dtype, context.dtype), torch.float32)
    order = order or pooling_order(cells, grid)
    sums = _LiftAndSum.apply(depth.to(dtype).reshape(b * n, d, f_h * f_w), context.to(dtype).flatten(3).flatten(0, 1), *order)
    return _rows_to_grid(sums, b, grid)


def pooling_order(cells: Tensor, grid: tuple[int, int, int]) -> PoolingOrder:
    """The points of ``bev_pool_lift`` sorted by cell, which serves as long as the cells stay the same.

    Points outside stay among the others, so that the host need not wait for their number: with weight 0 and a pixel of
    zeros, spread over all rows, for a GPU takes one row of the result after its own time.

    Args:
        cells: (B, N, D, fH, fW) as ``bev_pool_lift`` takes them.
        grid: Number of cells (nx, ny, nz).
    """
    b, n, d, f_h, f_w = cells.shape
    s, q, n_rows = b * n, f_h * f_w, b * _volume(grid)
    rows = cells + _volume(grid) * torch.arange(b, device=cells.device).view(b, 1, 1, 1, 1)
    inside = (cells >= 0).view(s, d, q)
    rows = torch.where(inside, rows.view(s, d, q), -1).int()
    pixels = torch.arange(s * q, dtype=rows.dtype, device=rows.device).view(s, 1, q)
    pixels = torch.where(inside, pixels, s * q)  # (S, D, Q)
    anywhere = torch.arange(rows.numel(), dtype=rows.dtype, device=rows.device).view_as(rows) % n_rows
    order, starts = _sort_by_row(torch.where(inside, rows, anywhere).flatten(), n_rows)
    return PoolingOrder(rows, order, pixels.flatten().index_select(0, order), starts)


class _LiftAndSum(torch.autograd.Function):
    """Rows of the grid (R, C) from depth (S, D, Q), context (S, C, Q) and the fields of a ``PoolingOrder``."""

    @staticmethod
    def forward(ctx, depth: Tensor, context: Tensor, rows: Tensor, order: Tensor, pixels: Tensor, starts: Tensor) -> Tensor:
        s, _, q = depth.shape
        inside = rows >= 0
        features = F.pad(context.transpose(1, 2).reshape(s * q, -1), (0, 0, 0, 1))  # the last pixel is that of zeros
        weights = torch.where(inside, depth, 0)
        ctx.save_for_backward(weights, features, torch.where(inside, rows, len(starts) - 1))
        return F.embedding_bag(
            pixels, features, starts, mode='sum', include_last_offset=True, per_sample_weights=weights.flatten().index_select(0, order)
        )

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Both gradients come from the transposed sum, a weighted bag of D grid rows for each pixel: its
        result is the gradient of the features, and its derivative by the weights that of the depth."""
        weights, features, rows = ctx.saved_tensors
        s, d, q = weights.shape
        grad = F.pad(grad, (0, 0, 0, 1))  # the row of the points outside
        grad.requires_grad_()  # not used, but torch 2.1 derives a bag by its weights only together with its rows
        bags = rows.transpose(1, 2).reshape(s * q, d)
        weights = weights.transpose(1, 2).reshape(s * q, d).requires_grad_()
        with torch.enable_grad():
            grad_features = F.embedding_bag(bags, grad, mode='sum', per_sample_weights=weights)
        (grad_weights,) = torch.autograd.grad(grad_features, weights, features[:-1])
        grads = grad_weights.view(s, q, d).transpose(1, 2), grad_features.detach().view(s, q, -1).transpose(1, 2)
        return *grads, None, None, None, None


def _sort_by_row(rows: Tensor, n_rows: int) -> tuple[Tensor, Tensor]:
    """Points by ascending row, else in their order, (P,) int64, and where among them those of each row begin and those of
    the last one end, (n_rows + 1,) int32, from the rows (P,) int32."""
    rows, order = rows.sort(stable=True)
    starts = torch.searchsorted(rows, torch.arange(n_rows + 1, dtype=rows.dtype, device=rows.device), out_int32=True)
    return order, starts


def _rows_to_grid(rows: Tensor, batch_size: int, grid: tuple[int, int, int]) -> Tensor:
    nx, ny, nz = grid
    return rows.view(batch_size, nz, nx, ny, -1).permute(0, 4, 1, 2, 3)  # (B, C, nz, nx, ny)


def _volume(grid: tuple[int, int, int]) -> int:
    nx, ny, nz = grid
    return nx * ny * nz
