"""What cannot work in the settings of a Swin Transformer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bevfusion_plugin.plan.checked_settings import (
    channel_count,
    channel_counts,
    checked_share,
    positive,
    positive_int,
    settings_dict,
    switch,
    whole_number,
    whole_numbers,
)

SWITCHES = ('qkv_bias', 'patch_norm', 'use_abs_pos_embed', 'with_cp', 'convert_weights')


def check_swin_config(
    *,
    in_channels: int,
    embed_dims: int,
    patch_size: int,
    window_size: int,
    mlp_ratio: int,
    pretrain_img_size: int | Sequence[int],
    qk_scale: float | None,
    drop_rate: float,
    attn_drop_rate: float,
    drop_path_rate: float,
    norm_cfg: dict,
    **stages_and_switches: Any,
) -> None:
    """Raise a ``ValueError`` that names the setting of mmdet's ``SwinTransformer`` that cannot work, and its value."""
    channel_count('in_channels', in_channels)
    channel_count('embed_dims', embed_dims)
    positive_int('patch_size', patch_size)
    positive_int('window_size', window_size)
    channel_count('mlp_ratio', mlp_ratio)
    if isinstance(pretrain_img_size, (int, float)):
        positive_int('pretrain_img_size', pretrain_img_size)
    else:
        whole_numbers('pretrain_img_size', pretrain_img_size, 2, mend='it is (height, width)')
    if qk_scale is not None:
        positive('qk_scale', qk_scale, mend='None is the usual one, head channels ** -0.5')
    checked_share('drop_rate', drop_rate)
    checked_share('attn_drop_rate', attn_drop_rate)
    if checked_share('drop_path_rate', drop_path_rate) == 1:
        raise ValueError(f'drop_path_rate must be below 1, got {drop_path_rate!r}: the last block would be left out always')
    settings_dict('norm_cfg', norm_cfg, 'type')
    for name in SWITCHES:
        switch(name, stages_and_switches[name])
    _check_stages(
        embed_dims, patch_size, *(stages_and_switches[name] for name in ('depths', 'num_heads', 'strides', 'out_indices', 'frozen_stages'))
    )


def _check_stages(
    embed_dims: int,
    patch_size: int,
    depths: Sequence[int],
    num_heads: Sequence[int],
    strides: Sequence[int],
    out_indices: Sequence[int],
    frozen_stages: int,
) -> None:
    stages = len(channel_counts('depths', depths))
    for name, values in (('num_heads', num_heads), ('strides', strides)):
        if len(channel_counts(name, values)) < stages:
            raise ValueError(f'{name} must have one number for each of the {stages} stages of depths={depths!r}, got {values!r}')
    if strides[0] != patch_size:
        raise ValueError(f'patch_size must be the first of strides, got patch_size={patch_size!r} and strides={strides!r}')
    channels = [embed_dims * 2**stage for stage in range(stages)]
    if any(count % heads for count, heads in zip(channels, num_heads)):
        raise ValueError(f'num_heads must divide the channels of the stages, {channels} with embed_dims={embed_dims!r}; got {num_heads!r}')
    whole_numbers('out_indices', out_indices, least=0)
    if not len(out_indices) or max(out_indices) >= stages:
        raise ValueError(
            f'out_indices must be one or more of the {stages} stages of depths={depths!r}, counted from 0; got {out_indices!r}'
        )
    whole_number('frozen_stages', frozen_stages, -1, stages)
