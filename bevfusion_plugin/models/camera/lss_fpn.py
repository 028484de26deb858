"""The image neck of BEVFusion."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from torch import Tensor, nn

from bevfusion_plugin.plan.checked_settings import channel_count, channel_counts, positive_int, settings_dict, switch, whole_number
from bevfusion_plugin.registry import MODELS


@MODELS.register_module()
class GeneralizedLSSFPN(BaseModule):
    """Top-down pyramid that concatenates each level with the upsampled next one instead of adding them.

    Args:
        in_channels: Channels of the input maps, finest first.
        out_channels: Channels of every output map.
        num_outs: Number of maps a user expects; at most ``len(in_channels)`` may be asked for. One map fewer
            than used inputs comes back, as in the reference, where this number only guards the config.
        start_level: First input that is used.
        end_level: One past the last input that gets an output; -1 means all but the last input.
        no_norm_on_lateral: Whether the 1x1 convolutions go without normalisation.
        conv_cfg: Convolution type, None for Conv2d.
        norm_cfg: Normalisation.
        act_cfg: Activation.
        upsample_cfg: Arguments of ``torch.nn.functional.interpolate``.
        init_cfg: Initialisation.

    Raises:
        ValueError: If ``start_level`` leaves fewer than two inputs, or ``end_level`` or ``num_outs`` fit no input, or an
            argument is of a wrong kind.

    Source:
        mmdetection3d projects/BEVFusion, ``GeneralizedLSSFPN`` (names of arguments and parameters). There a
        ``start_level`` above 0 raises an IndexError; here it works.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int,
        num_outs: int,
        start_level: int = 0,
        end_level: int = -1,
        no_norm_on_lateral: bool = False,
        conv_cfg: dict | None = None,
        norm_cfg: dict | None = dict(type='BN2d'),
        act_cfg: dict | None = dict(type='ReLU'),
        upsample_cfg: dict = dict(mode='bilinear', align_corners=True),
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        last = len(channel_counts('in_channels', in_channels, 2)) - 1
        channel_count('out_channels', out_channels), positive_int('num_outs', num_outs)
        whole_number('start_level', start_level, 0), whole_number('end_level', end_level, -1, mend='-1 means all but the last input')
        switch('no_norm_on_lateral', no_norm_on_lateral), settings_dict('upsample_cfg', upsample_cfg)
        for name, cfg in dict(conv_cfg=conv_cfg, norm_cfg=norm_cfg, act_cfg=act_cfg).items():
            settings_dict(name, dict(type='') if cfg is None else cfg, 'type')
        end = last if end_level == -1 else min(end_level, last)
        if not 0 <= start_level < end:
            raise ValueError(
                f'start_level must lie in [0, {end}), got {start_level}: level {end} is the coarsest of '
                f'the {len(in_channels)} inputs and only feeds the one before it (end_level={end_level})'
            )
        if num_outs > len(in_channels) - start_level:
            raise ValueError(
                f'num_outs={num_outs} asks for more maps than the {len(in_channels) - start_level} '
                f'inputs from start_level={start_level} on, with in_channels={list(in_channels)}'
            )
        self.in_channels = list(in_channels)
        self.start_level = start_level
        self.end_level = end
        self.upsample_cfg = dict(upsample_cfg)
        self.lateral_convs = nn.ModuleList()
        self.fpn_convs = nn.ModuleList()
        shared = dict(conv_cfg=conv_cfg, act_cfg=act_cfg, inplace=False)
        for level in range(start_level, end):
            above = in_channels[level + 1] if level == end - 1 else out_channels
            self.lateral_convs.append(
                ConvModule(in_channels[level] + above, out_channels, 1, norm_cfg=None if no_norm_on_lateral else norm_cfg, **shared)
            )
            self.fpn_convs.append(ConvModule(out_channels, out_channels, 3, padding=1, norm_cfg=norm_cfg, **shared))

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Fused maps, finest first.

        Args:
            inputs: One map (B * N, in_channels[i], H_i, W_i) per level.

        Returns:
            Maps (B * N, out_channels, H_i, W_i) for the levels from ``start_level`` to ``end_level - 1``.

        Raises:
            ValueError: If the number of inputs is not ``len(in_channels)``.
        """
        if len(inputs) != len(self.in_channels):
            raise ValueError(f'expected {len(self.in_channels)} input maps, got {len(inputs)}')
        outputs: list[Tensor] = []
        above = inputs[self.end_level]
        for level in reversed(range(self.start_level, self.end_level)):
            here = inputs[level]
            above = F.interpolate(above, size=here.shape[2:], **self.upsample_cfg)
            index = level - self.start_level
            above = self.fpn_convs[index](self.lateral_convs[index](torch.cat([here, above], dim=1)))
            outputs.insert(0, above)
        return tuple(outputs)
