"""The fusion layer of BEVFusion."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bevfusion_plugin.plan.checked_settings import channel_count, channel_counts
from bevfusion_plugin.registry import MODELS


@MODELS.register_module()
class ConvFuser(nn.Sequential):
    """Joins bird's-eye-view maps of several sensors: concatenation, 3x3 convolution, BatchNorm, ReLU.

    Args:
        in_channels: Channels of each map, in the order of the inputs (camera, lidar).
        out_channels: Channels of the result.

    Raises:
        ValueError: If a number of channels is no int >= 1.

    Source:
        BEVFusion, Liu et al. 2022 (arXiv 2205.13542), section 3.3; mmdetection3d projects/BEVFusion.
    """

    def __init__(self, in_channels: Sequence[int], out_channels: int) -> None:
        channel_counts('in_channels', in_channels), channel_count('out_channels', out_channels)
        super().__init__(
            nn.Conv2d(sum(in_channels), out_channels, 3, padding=1, bias=False), nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)
        )
        self.in_channels = list(in_channels)
        self.out_channels = out_channels

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """The fused map (B, out_channels, X, Y).

        Args:
            inputs: One map (B, in_channels[i], X, Y) per sensor, all on the same grid.

        Raises:
            ValueError: If the channels or the grids do not fit.
        """
        if [x.shape[1] for x in inputs] != self.in_channels:
            raise ValueError(f'expected maps with channels {self.in_channels}, got {[tuple(x.shape) for x in inputs]}')
        if len({tuple(x.shape[2:]) for x in inputs}) > 1:
            raise ValueError(
                'the maps to fuse lie on different grids: '
                + ', '.join(str(tuple(x.shape)) for x in inputs)
                + '; make xbound/ybound, downsample and the voxel grid agree'
            )
        return super().forward(torch.cat(list(inputs), dim=1))
