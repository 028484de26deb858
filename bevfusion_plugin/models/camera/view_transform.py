"""Camera features lifted into the bird's-eye view (Lift, Splat, Shoot), plain and with lidar depth.

Letters: B samples, N cameras, D depth bins, C channels, H x W image feature map, X x Y x Z cells of the grid.
Under autocast the geometry and the sum over the cells stay in float32, because half precision moves frustum points by whole cells;
the convolutions follow autocast.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bevfusion_plugin.models.camera.frustum import (
    Bound,
    frustum_points,
    frustum_to_lidar,
    grid_from_bounds,
    lidar_depth_maps,
    points_to_cells,
)
from bevfusion_plugin.models.camera.view_config import check_view_config
from bevfusion_plugin.models.camera.view_matrices import ViewGeometry, ViewMatrices, view_geometry
from bevfusion_plugin.ops.lift_splat import PoolingOrder, bev_pool_lift, pooling_order
from bevfusion_plugin.registry import MODELS


class CameraView(NamedTuple):
    """What a view transform makes of a batch's matrices."""

    geometry: ViewGeometry
    cells: Tensor  # (B, N, D, H, W) flat cell of each frustum point
    order: PoolingOrder


class Kept(NamedTuple):
    """A view, and what it was made from."""

    state: tuple  # device, dtype, and how often frustum, dx and bx were written
    matrices: ViewMatrices
    view: CameraView


@MODELS.register_module()
class LSSTransform(nn.Module):
    """View transform that predicts depth from image features alone.

    Args:
        in_channels: Channels of the image feature map.
        out_channels: Channels C of the bird's-eye-view map.
        image_size: Height and width of the network's input image, pixels.
        feature_size: Height H and width W of the image feature map.
        xbound, ybound, zbound: (lower, upper, cell) of the grid, metres, lidar frame.
        dbound: (first, end, step) of the depth bins, metres.
        downsample: 1 keeps the grid, 2 halves it with three convolutions (then z must be one cell).

    Raises:
        ValueError: If a bound or ``downsample`` is not usable.

    Source:
        Lift, Splat, Shoot, Philion and Fidler 2020 (arXiv 2008.05711); mmdetection3d projects/BEVFusion, whose parameter
        names and order of operations these are. There an image without a frustum point in the grid raises; here it
        gives zeros.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        image_size: Sequence[int],
        feature_size: Sequence[int],
        xbound: Bound,
        ybound: Bound,
        zbound: Bound,
        dbound: Bound,
        downsample: int = 1,
    ) -> None:
        check_view_config(
            in_channels, out_channels, image_size, feature_size, downsample, dbound, xbound=xbound, ybound=ybound, zbound=zbound
        )
        self.check_feature_size(image_size, feature_size)
        super().__init__()
        dx, bx, nx = grid_from_bounds(xbound, ybound, zbound)
        if downsample not in (1, 2):
            raise ValueError(f'downsample must be 1 or 2, got {downsample}')
        if downsample == 2 and nx[2] != 1:
            raise ValueError(
                f'downsample=2 needs a grid of one cell in z, but zbound={list(zbound)} makes {int(nx[2])}; '
                f'use zbound=[{zbound[0]}, {zbound[1]}, {zbound[1] - zbound[0]}] or downsample=1'
            )
        self.in_channels = in_channels
        self.image_size = tuple(image_size)
        self.feature_size = tuple(feature_size)
        self.C = out_channels
        self.grid = tuple(nx.tolist())
        frustum = frustum_points(image_size, feature_size, dbound)
        self.D = frustum.shape[0]
        # Parameters, not buffers: published checkpoints hold them, and DDP must not broadcast them every step.
        self.dx, self.bx, self.nx, self.frustum = (nn.Parameter(value, requires_grad=False) for value in (dx, bx, nx, frustum))
        self._kept: Kept | None = None
        self.depthnet = self.build_depthnet()
        self.downsample = _halving_convs(out_channels) if downsample == 2 else nn.Identity()
        self.dtransform = self.build_dtransform()

    @staticmethod
    def check_feature_size(image_size: Sequence[int], feature_size: Sequence[int]) -> None:
        """Any size of the feature map does without lidar depth."""

    def build_dtransform(self) -> nn.Module | None:
        """Module that makes features of the lidar depth; None: there is no lidar depth."""
        return None

    def build_depthnet(self) -> nn.Module:
        """Module that gives D depth logits and C context channels from the image features."""
        return nn.Conv2d(self.in_channels, self.D + self.C, 1)

    def depth_and_context(self, img: Tensor, depth_maps: Tensor | None) -> tuple[Tensor, Tensor]:
        """Depth probabilities (B, N, D, H, W) and context (B, N, C, H, W) from image features (B, N, in, H, W)."""
        b, n = img.shape[:2]
        x = self.depthnet(img.flatten(0, 1))  # (B * N, D + C, H, W)
        depth, context = x.unflatten(0, (b, n)).split([self.D, self.C], dim=2)
        return depth.to(torch.promote_types(depth.dtype, torch.float32)).softmax(dim=2), context

    def depth_maps(self, points: Sequence[Tensor] | None, geometry: ViewGeometry) -> Tensor | None:
        """Lidar depth seen by each camera, for transforms that use it; None here."""
        return None

    def view(self, matrices: ViewMatrices, device: torch.device) -> CameraView:
        """What follows from the matrices alone. In a test it is kept and serves the next batch, if that has the same ones: a rig whose
        sensors fire together. (In nuScenes the matrices hold the way driven between lidar and camera, another one each time.)
        """
        on_host = all(matrix.device.type == 'cpu' for matrix in matrices)  # elsewhere to compare them would make the host wait
        if self.training or not on_host or self.frustum.is_inference():  # such a parameter does not tell whether it was written
            self._kept = None
            return self.new_view(matrices, device)
        state = device, self.frustum.dtype, *(parameter._version for parameter in (self.frustum, self.dx, self.bx))
        if self._kept is None or self._kept.state != state or not all(map(torch.equal, self._kept.matrices, matrices)):
            with torch.inference_mode(False):  # or a later training could not use it
                matrices = ViewMatrices(*(matrix.clone() for matrix in matrices))
                self._kept = Kept(state, matrices, self.new_view(matrices, device))
        return self._kept.view

    def new_view(self, matrices: ViewMatrices, device: torch.device) -> CameraView:
        """Geometry, cells of the frustum's points and their order, computed."""
        geometry = view_geometry(matrices, device)
        cells = points_to_cells(frustum_to_lidar(self.frustum, geometry), self.dx, self.bx, self.grid)  # (B, N, D, H, W)
        return CameraView(geometry, cells, pooling_order(cells, self.grid))

    def forward(
        self,
        img: Tensor,
        points: Sequence[Tensor] | None,
        lidar2image: Tensor,
        camera_intrinsics: Tensor,
        camera2lidar: Tensor,
        img_aug_matrix: Tensor,
        lidar_aug_matrix: Tensor,
        metas: Sequence[dict] | None = None,
    ) -> Tensor:
        """Bird's-eye-view map (B, Z * C, X, Y), or (B, C, X / 2, Y / 2) with ``downsample=2``.

        Args:
            img: Image features (B, N, in_channels, H, W).
            points: One (P, >= 3) per sample, augmented lidar frame, metres; not changed. None will do here.
            lidar2image: (B, N, 4, 4) recorded lidar frame to recorded image. All matrices may lie on the host, and should.
            camera_intrinsics: (B, N, 4, 4).
            camera2lidar: (B, N, 4, 4).
            img_aug_matrix: (B, N, 4, 4).
            lidar_aug_matrix: (B, 4, 4).
            metas: Not used; kept for the reference's signature.

        Raises:
            ValueError: If ``img`` does not have the announced channels and size.
        """
        expected = (self.in_channels, *self.feature_size)
        if img.dim() != 5 or tuple(img.shape[2:]) != expected:
            raise ValueError(
                f'expected image features (B, N, {", ".join(map(str, expected))}), got {tuple(img.shape)}; '
                'image_size, feature_size and in_channels must fit the images and the neck'
            )
        matrices = ViewMatrices(lidar2image, camera_intrinsics, camera2lidar, img_aug_matrix, lidar_aug_matrix)
        with torch.autocast(img.device.type, enabled=False):
            view = self.view(ViewMatrices(*(matrix.to(self.frustum.dtype) for matrix in matrices)), img.device)
            depth_maps = self.depth_maps(points, view.geometry)
        depth, context = self.depth_and_context(img, depth_maps)
        pooled = bev_pool_lift(depth, context, view.cells, self.grid, view.order)  # (B, C, Z, X, Y), float32
        return self.downsample(pooled.transpose(1, 2).flatten(1, 2))  # (B, Z * C, X, Y)


@MODELS.register_module()
class DepthLSSTransform(LSSTransform):
    """View transform whose depth prediction also sees the lidar points projected into each image.

    Arguments as for ``LSSTransform``. ``feature_size`` must be an eighth of ``image_size``, because the depth map is
    reduced by strides 4 and 2.

    Source:
        mmdetection3d projects/BEVFusion, ``DepthLSSTransform``.
    """

    dtransform: nn.Sequential

    @staticmethod
    def check_feature_size(image_size: Sequence[int], feature_size: Sequence[int]) -> None:
        """The depth map is reduced to an eighth.

        Raises:
            ValueError: If ``feature_size`` is not that of an eighth.
        """
        reduced = tuple(-(-size // 8) for size in image_size)
        if tuple(feature_size) != reduced:
            raise ValueError(f'feature_size must be image_size / 8 = {reduced} for image_size={image_size!r}, got {feature_size!r}')

    def build_dtransform(self) -> nn.Sequential:
        """Module that makes 64 channels at an eighth of the size of a depth map."""
        return nn.Sequential(
            *_conv_bn_relu(1, 8, 1), *_conv_bn_relu(8, 32, 5, stride=4, padding=2), *_conv_bn_relu(32, 64, 5, stride=2, padding=2)
        )

    def build_depthnet(self) -> nn.Module:
        """Module that gives D depth logits and C context channels from image and depth features."""
        return nn.Sequential(
            *_conv_bn_relu(self.in_channels + 64, self.in_channels, 3, padding=1),
            *_conv_bn_relu(self.in_channels, self.in_channels, 3, padding=1),
            nn.Conv2d(self.in_channels, self.D + self.C, 1),
        )

    def depth_maps(self, points: Sequence[Tensor] | None, geometry: ViewGeometry) -> Tensor:
        """Lidar depth in each camera's image, (B, N, 1, image_h, image_w), metres.

        Raises:
            ValueError: If there are no points.
        """
        if points is None:
            raise ValueError(
                "DepthLSSTransform projects lidar points, but the batch has none; add 'points' to the keys of Pack3DDetInputs, "
                'or take view_transform.type=bevfusion_plugin.LSSTransform, which needs images alone'
            )
        return lidar_depth_maps(points, geometry, self.image_size)

    def depth_and_context(self, img: Tensor, depth_maps: Tensor | None) -> tuple[Tensor, Tensor]:
        """Depth probabilities (B, N, D, H, W) and context (B, N, C, H, W) from image features and depth maps."""
        if depth_maps is None:
            raise TypeError('DepthLSSTransform needs depth maps, got None; take those of its depth_maps(points, geometry)')
        features = self.dtransform(depth_maps.flatten(0, 1)).unflatten(0, img.shape[:2])  # (B, N, 64, H, W)
        return super().depth_and_context(torch.cat([features, img], dim=2), None)


def _conv_bn_relu(in_channels: int, out_channels: int, kernel: int, **conv) -> list[nn.Module]:
    return [nn.Conv2d(in_channels, out_channels, kernel, **conv), nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]


def _halving_convs(channels: int) -> nn.Sequential:
    strides = (1, 2, 1)
    return nn.Sequential(
        *(layer for stride in strides for layer in _conv_bn_relu(channels, channels, 3, stride=stride, padding=1, bias=False))
    )
