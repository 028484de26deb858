"""Branches of TransFusion's head: the dense heatmap over the map, and the predictions of each query.

Letters: B samples, C channels, X x Y cells of the BEV map, K classes, Q queries.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from mmcv.cnn import ConvModule, build_conv_layer
from mmdet3d.models.dense_heads.centerpoint_head import SeparateHead
from torch import Tensor, nn

HEATMAP_BIAS = -2.19  # sigmoid(-2.19) = 0.1: at first every cell is probably background (RetinaNet, section 4.1)


def at_least_float32(values: Tensor) -> Tensor:
    """``values`` in float32 if they were float16 or bfloat16, else as they are."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def heatmap_branch(channels: int, num_classes: int, bias: bool | str) -> nn.Sequential:
    """Two convolutions, map (B, C, X, Y) to heatmap logits (B, K, X, Y)."""
    conv2d = dict(type='Conv2d')
    return nn.Sequential(
        ConvModule(channels, channels, 3, padding=1, bias=bias, conv_cfg=conv2d, norm_cfg=dict(type='BN2d')),
        build_conv_layer(conv2d, channels, num_classes, 3, padding=1, bias=bool(bias)),
    )


def prediction_branch(
    channels: int, heads: Mapping[str, tuple[int, int]], bias: bool | str, conv_cfg: dict | None, norm_cfg: dict | None
) -> SeparateHead:
    """Queries (B, C, Q) to what each name of ``heads``, name -> (channels, convolutions), says of them."""
    conv_cfg, norm_cfg = conv_cfg or dict(type='Conv1d'), norm_cfg or dict(type='BN1d')
    return SeparateHead(channels, heads, init_bias=HEATMAP_BIAS, bias=bias, conv_cfg=conv_cfg, norm_cfg=norm_cfg)
