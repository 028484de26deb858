"""Geometry of the camera frustum as pure functions.

Letters: B samples, N cameras, D depth bins, H x W feature map, P points. Matrices act on column vectors.
Frames: image (u, v in pixels, depth in metres), camera, lidar. ``lidar_aug_matrix`` leads from the recorded to
the augmented lidar frame, ``img_aug_matrix`` from the recorded to the augmented image.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bevfusion_plugin.models.camera.view_matrices import ViewGeometry
from bevfusion_plugin.ops.lift_splat import flatten_cells

Bound = Sequence[float]


def grid_from_bounds(*bounds: Bound) -> tuple[Tensor, Tensor, Tensor]:
    """Cell size, centre of the first cell and number of cells of a regular grid.

    Args:
        *bounds: One (lower, upper, step) per axis, metres.

    Returns:
        dx (A,) float32, bx (A,) float32, nx (A,) int64 for A axes. The count is the truncated float quotient, as
        in the reference: (-3.3, 3.3, 0.1) has 65 cells.

    Raises:
        ValueError: If a bound is not (lower, upper, step) with lower < upper and step > 0.
    """
    for bound in bounds:
        if len(bound) != 3 or not bound[0] < bound[1] or not bound[2] > 0:
            raise ValueError(f'a bound must be (lower, upper, step) with lower < upper and step > 0, got {list(bound)}')
    dx = torch.tensor([step for _, _, step in bounds], dtype=torch.float32)
    bx = torch.tensor([lower + step / 2 for lower, _, step in bounds], dtype=torch.float32)
    nx = torch.tensor([int((upper - lower) / step) for lower, upper, step in bounds], dtype=torch.int64)
    return dx, bx, nx


def frustum_points(image_size: Sequence[int], feature_size: Sequence[int], dbound: Bound) -> Tensor:
    """Pixel and depth of every frustum point: (D, H, W, 3) float32 with (u, v, depth).

    Args:
        image_size: Height and width of the network's input image, pixels.
        feature_size: Height H and width W of the image feature map.
        dbound: First depth, end (exclusive) and step, metres.
    """
    (image_h, image_w), (h, w) = image_size, feature_size
    depths = torch.arange(*dbound, dtype=torch.float32)
    u = torch.linspace(0, image_w - 1, w, dtype=torch.float32)
    v = torch.linspace(0, image_h - 1, h, dtype=torch.float32)
    depths, v, u = torch.meshgrid(depths, v, u, indexing='ij')
    return torch.stack([u, v, depths], dim=-1)  # (D, H, W, 3)


def split_affine(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Linear part (..., 3, 3) and translation (..., 3) of a 4x4 matrix."""
    return matrix[..., :3, :3], matrix[..., :3, 3]


def frustum_to_lidar(frustum: Tensor, geometry: ViewGeometry) -> Tensor:
    """Where each frustum point lies in the augmented lidar frame.

    Args:
        frustum: (D, H, W, 3) with (u, v, depth) in the augmented image.
        geometry: On the frustum's device.

    Returns:
        (B, N, D, H, W, 3) metres.

    Source:
        Lift, Splat, Shoot, Philion and Fidler 2020 (arXiv 2008.05711), section 3.1; order of the operations as in
        mmdetection3d projects/BEVFusion, so that points fall into the same cells.
    """
    _, post_trans = split_affine(geometry.img_aug)
    cam_rot, cam_trans = split_affine(geometry.camera2lidar)
    aug_rot, aug_trans = split_affine(geometry.lidar_aug)
    points = rotate(_per_camera(geometry.img_aug_inverse), frustum - _per_camera(post_trans))
    points = torch.cat([points[..., :2] * points[..., 2:], points[..., 2:]], dim=-1)
    points = rotate(_per_camera(geometry.image2camera), points)
    points = rotate(_per_camera(cam_rot), points) + _per_camera(cam_trans)
    return rotate(_per_camera(aug_rot[:, None]), points) + _per_camera(aug_trans[:, None])


def _per_camera(matrix: Tensor) -> Tensor:
    return matrix[:, :, None, None, None]  # (B, N, 1, 1, 1, ...)


def rotate(matrix: Tensor, points: Tensor) -> Tensor:
    """``matrix`` times each point, (..., 3) from (..., 3, 3) and (..., 3).

    The sum is written out: matrix products round differently from one machine's BLAS to another's, and a last bit is enough to
    move a point to the next cell or pixel.
    """
    return (matrix[..., 0] * points[..., 0:1] + matrix[..., 1] * points[..., 1:2]) + matrix[..., 2] * points[..., 2:3]


def points_to_cells(points: Tensor, dx: Tensor, bx: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """Flat cell index of each point as ``bev_pool_lift`` takes it, -1 outside the grid.

    Args:
        points: (..., 3) metres.
        dx, bx: Cell size and centre of the first cell, (3,) metres, see ``grid_from_bounds``.
        grid: Number of cells (nx, ny, nz).

    Returns:
        (...) int64. The cell index is truncated toward zero, not floored: a point up to one cell below the lower border
        counts as cell 0, as in the reference.
    """
    return flatten_cells(((points - (bx - dx / 2.0)) / dx).long(), grid)


def lidar_depth_maps(points: Sequence[Tensor], geometry: ViewGeometry, image_size: Sequence[int]) -> Tensor:
    """Depth of the lidar points in each camera's augmented image, 0 where none falls.

    Args:
        points: One (P_b, >= 3) per sample, augmented lidar frame, metres. They are not changed.
        geometry: On the points' device.
        image_size: Height and width of the augmented image, pixels.

    Returns:
        (B, N, 1, image_h, image_w) metres, float32. Depth is clamped to [1e-5, 1e5]; where several points meet in a
        pixel the last one stays.

    Source:
        mmdetection3d projects/BEVFusion, ``BaseDepthTransform``. There the last point wins on a CPU only, and the caller's
        points lose the augmentation's translation in place.
    """
    _, aug_trans = split_affine(geometry.lidar_aug[:, None])  # (B, 1, ...)
    to_image, to_image_shift = split_affine(geometry.lidar2image[:, :, None])  # (B, N, 1, ...)
    post_rot, post_trans = split_affine(geometry.img_aug[:, :, None])
    recorded = rotate(geometry.lidar_aug_inverse[:, None], _side_by_side(points, aug_trans.dtype) - aug_trans)  # (B, P, 3)
    projected = rotate(to_image, recorded[:, None]) + to_image_shift  # (B, N, P, 3)
    depth = projected[..., 2].clamp(1e-5, 1e5)  # (B, N, P)
    pixels = torch.cat([projected[..., :2] / depth.unsqueeze(-1), depth.unsqueeze(-1)], dim=-1)
    pixels = rotate(post_rot, pixels) + post_trans  # (B, N, P, 3)
    return _splat_last(pixels[..., 1], pixels[..., 0], depth, image_size)


def _side_by_side(points: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """(B, P, 3) coordinates; what a sample has fewer than the longest is NaN and falls into no image."""
    nowhere = points[0].new_full((max(1, *(len(sample) for sample in points)), 3), torch.nan, dtype=dtype)
    parts = [part for sample in points for part in (sample[:, :3].to(dtype), nowhere[len(sample) :])]
    return torch.cat(parts).view(len(points), *nowhere.shape)


def _splat_last(rows: Tensor, columns: Tensor, depth: Tensor, image_size: Sequence[int]) -> Tensor:
    """(B, N, 1, H, W) images in which each pixel holds the depth (B, N, P) of the last of its points."""
    height, width = image_size
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    point = torch.arange(rows.shape[2], device=rows.device)
    # Points outside change nothing, each at a pixel of its own: GPUs take writes to the same place one after the other.
    pixel = torch.where(inside, rows.long() * width + columns.long(), point % (height * width))
    # The maximum over point indices is the same on every device; plain assignment has no order on CUDA.
    last = point.new_full((*rows.shape[:2], height * width), -1).scatter_reduce_(2, pixel, torch.where(inside, point, -1), 'amax')
    image = torch.where(last >= 0, depth.gather(2, last.clamp(min=0)), 0.0)
    return image.unflatten(2, (1, height, width))
