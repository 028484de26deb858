"""BEVFusion's weights as other code bases name and lay them out, written from their sources and not from our tables."""

from __future__ import annotations

import json
import re

import torch
from goldens import golden_path
from torch import Tensor

MIT_MODULES = dict(
    img_backbone='encoders.camera.backbone',
    img_neck='encoders.camera.neck',
    view_transform='encoders.camera.vtransform',
    pts_middle_encoder='encoders.lidar.backbone',
    fusion_layer='fuser',
    pts_backbone='decoder.backbone',
    pts_neck='decoder.neck',
    bbox_head='heads.object',
)
PCDET_MODULES = dict(
    img_backbone='image_backbone',
    img_neck='neck',
    view_transform='vtransform',
    fusion_layer='fuser.conv',
    pts_neck='backbone_2d.deblocks',
    bbox_head='dense_head',
)
TRANSFUSION_LAYER = {
    'self_attn.attn': 'self_attn',
    'cross_attn.attn': 'multihead_attn',
    'ffn.layers.0.0': 'linear1',
    'ffn.layers.1': 'linear2',
    'norms.0': 'norm1',
    'norms.1': 'norm2',
    'norms.2': 'norm3',
}
DENSE_BEV = ('fusion_layer', 'pts_backbone', 'pts_neck', 'bbox_head.shared_conv', 'bbox_head.heatmap_head')


def small_weights(manifest: str) -> dict[str, Tensor]:
    """Seeded tensors for every key of a manifest, channels divided by eight; kernel sizes and the ten classes stay."""
    generator = torch.Generator().manual_seed(3)
    weights = {}
    for entry in json.loads(golden_path(f'{manifest}.json').read_text())['keys']:
        shape = [size if size < 16 else size // 8 for size in entry['shape']]
        values = torch.randn(shape, generator=generator) if shape else torch.tensor(float(len(weights)))
        weights[entry['key']] = values if entry['dtype'] == 'float32' else (100 * values).long()
    return weights


def mit_name(key: str) -> str:
    module, rest = key.split('.', 1)
    if rest.startswith('decoder.'):
        rest = transfusion_layer(rest)
    return f'{MIT_MODULES[module]}.{rest}'


def transfusion_layer(rest: str) -> str:
    for ours, theirs in TRANSFUSION_LAYER.items():
        rest = re.sub(rf'^(decoder\.\d)\.{re.escape(ours)}\.', rf'\1.{theirs}.', rest)
    return rest


def mit_tensor(key: str, value: Tensor) -> Tensor:
    """spconv 1 kernels (kx, ky, kz, I, O); boxes (w, l, h), yaw r with our yaw = -pi/2 - r."""
    if value.dim() == 5:
        return value.permute(1, 2, 3, 4, 0).contiguous()
    if re.search(r'prediction_heads\.0\.dim\.1\.', key):
        length, width, height = value
        return torch.stack([width, length, height])
    if re.search(r'prediction_heads\.0\.rot\.1\.', key):
        sine, cosine = value
        return torch.stack([-cosine, -sine])  # sin r = sin(-pi/2 - yaw) = -cos yaw
    return value


def mit_checkpoint(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {mit_name(key): mit_tensor(key, value) for key, value in weights.items()}


def pcdet_name(key: str) -> str:
    module, rest = key.split('.', 1)
    if module == 'pts_middle_encoder':
        return f'backbone_3d.{pcdet_stage(rest)}'
    if module == 'pts_backbone':
        _, block, layer, name = rest.split('.', 3)
        return f'backbone_2d.blocks.{block}.{int(layer) + 1}.{name}'  # behind a ZeroPad2d
    if module == 'pts_neck':
        return f'backbone_2d.{rest}'
    if rest.startswith('decoder.0.'):
        rest = transfusion_layer(rest).replace('decoder.0.', 'decoder.', 1)
    if rest.startswith('prediction_heads.0.'):
        rest = re.sub(r'^prediction_heads\.0\.(\w+)\.0\.conv\.', r'prediction_head.\1.0.0.', rest)
        rest = re.sub(r'^prediction_heads\.0\.(\w+)\.0\.bn\.', r'prediction_head.\1.0.1.', rest)
        rest = re.sub(r'^prediction_heads\.0\.(\w+)\.1\.', r'prediction_head.\1.1.', rest)
    return f'{PCDET_MODULES[module]}.{rest}'


def pcdet_stage(rest: str) -> str:
    """VoxelResBackBone8x: conv1 = (block, block), conv2 to conv4 = (strided convolution, block, block)."""
    match = re.match(r'encoder_layers\.encoder_layer(\d)\.(\d)\.(.*)', rest)
    if match is None:
        return rest  # conv_input, conv_out
    stage, block, name = int(match[1]), int(match[2]), match[3]
    if block == 2:
        return f'conv{stage + 1}.0.{name}'
    return f'conv{stage}.{block if stage == 1 else block + 1}.{name}'


def pcdet_tensor(key: str, value: Tensor) -> Tensor:
    """Sparse kernels (O, kz, ky, kx, I), kernels over BEV maps (O, I, ky, kx)."""
    if value.dim() == 5:
        return value.permute(0, 3, 2, 1, 4).contiguous()
    return value.transpose(2, 3).contiguous() if value.dim() == 4 and key.startswith(DENSE_BEV) else value


def pcdet_checkpoint(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {'global_step': torch.tensor([23172]), **{pcdet_name(key): pcdet_tensor(key, value) for key, value in weights.items()}}
