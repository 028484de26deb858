"""The models' registered classes for :mod:`constructors`, with the settings of the recorded cases."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from constructors import Case
from detector_goldens import recorded_batch, total_loss
from goldens import Golden, load_golden
from mmengine.config import ConfigDict
from recorded_heads import METAS, recorded_gt, total
from torch import Tensor, nn

from bevfusion_plugin.registry import MODELS, TASK_UTILS, build_nested

MATRICES = ('lidar2image', 'camera_intrinsics', 'camera2lidar', 'img_aug_matrix', 'lidar_aug_matrix')

SWIN = dict(
    pretrain_img_size=[16, 32],
    in_channels=3,
    embed_dims=8,
    patch_size=2,
    window_size=4,
    mlp_ratio=2,
    depths=[2, 2],
    num_heads=[1, 2],
    strides=[2, 2],
    out_indices=[0, 1],
    qkv_bias=True,
    qk_scale=0.5,
    patch_norm=True,
    drop_rate=0.1,
    attn_drop_rate=0.1,
    drop_path_rate=0.1,
    use_abs_pos_embed=False,
    norm_cfg=dict(type='LN'),
    with_cp=False,
    convert_weights=False,
    frozen_stages=-1,
)


def update_three(module: nn.Module, loss_of: Any) -> None:
    optimizer = torch.optim.SGD((p for p in module.parameters() if p.requires_grad), lr=1e-4)
    for _ in range(3):
        optimizer.zero_grad()
        loss_of(module).backward()
        optimizer.step()


def sum_of(outputs: Any) -> Tensor:
    while isinstance(outputs, (list, tuple)):
        outputs = outputs[0]
    return outputs.sum() if isinstance(outputs, Tensor) else outputs.features.sum()


def fuse(golden: Golden, module: nn.Module, folder: Path) -> None:
    """Maps with the channels that it asks for."""
    update_three(module, lambda m: sum_of(m([torch.rand(2, c, 4, 4) for c in m.in_channels])))


def pyramid(golden: Golden, module: nn.Module, folder: Path) -> None:
    update_three(module, lambda m: sum_of(m([torch.rand(2, c, 16 >> i, 16 >> i) for i, c in enumerate(m.in_channels)])))


def see(module: nn.Module, folder: Path) -> None:
    """Images with the channels that it asks for."""
    module.train()
    update_three(module, lambda m: sum_of(m(torch.rand(2, m.patch_embed.projection.in_channels, 16, 32))))


def view(golden: Golden, module: nn.Module, folder: Path) -> None:
    points, img = golden.series('in/points'), torch.rand(2, 2, module.in_channels, *module.feature_size)
    update_three(module, lambda m: sum_of(m(img, [p.clone() for p in points], *(golden[f'in/{name}'] for name in MATRICES), None)))


def encode(golden: Golden, module: nn.Module, folder: Path) -> None:
    channels, shape = module.conv_input[0].in_channels, torch.tensor(module.sparse_shape)
    cells = torch.stack([torch.zeros(20, dtype=torch.long), *(torch.arange(20) * 7 % size for size in shape)], dim=1).unique(dim=0)
    update_three(module, lambda m: sum_of(m(torch.rand(len(cells), channels), cells, 1)))


def decode_layer(golden: Golden, module: nn.Module, folder: Path) -> None:
    dims, inputs = module.self_attn.embed_dims, module.self_posembed.position_embedding_head[0].in_channels
    update_three(
        module, lambda m: sum_of(m(torch.rand(2, dims, 5), torch.rand(2, dims, 9), torch.rand(2, 5, inputs), torch.rand(2, 9, inputs)))
    )


def head(golden: Golden, module: nn.Module, folder: Path) -> None:
    if module.train_cfg is None:
        return  # for inference only
    maps = torch.rand(2, module.shared_conv.in_channels, *module.map_size)
    update_three(module, lambda m: total(m.loss_by_feat(m(maps, METAS), recorded_gt(golden))))


def detect(golden: Golden, module: nn.Module, folder: Path) -> None:
    def loss(m: nn.Module) -> Tensor:
        data = m.data_preprocessor(recorded_batch(golden), True)
        return total_loss(m.loss(data['inputs'], data['data_samples']))

    update_three(module, loss)


def code_boxes(golden: Golden, coder: Any, folder: Path) -> None:
    inputs = {name: golden[f'decode/in/{name}'] for name in ('heatmap', 'rot', 'dim', 'center', 'height', 'vel')}
    for _ in range(3):
        coder.encode(golden['encode/in/boxes'])
        coder.decode(**inputs, filter=True)


def assign(golden: Golden, assigner: Any, folder: Path) -> None:
    boxes = golden['in/bboxes'], golden['in/gt_bboxes']
    for _ in range(3):
        if 'in/cls_pred' in golden.arrays:
            assigner.assign(*boxes, golden['in/gt_labels'], golden['in/cls_pred'], dict(point_cloud_range=golden.meta['point_cloud_range']))
        else:
            assigner.assign(*boxes, None, golden['in/gt_labels'], golden['in/query_labels'])


def cost_boxes(cost: Any, folder: Path) -> None:
    for _ in range(3):
        assert cost(torch.rand(3, 7), torch.rand(2, 7), dict(point_cloud_range=[0, 0, 0, 1, 1, 1])).isfinite().all()


def cost_overlaps(cost: Any, folder: Path) -> None:
    for _ in range(3):
        assert cost(torch.rand(3, 2)).isfinite().all()


def recorded_case(name: str, use: Any, registry: Any = MODELS, **more: Any) -> Case:
    golden = load_golden(name)
    settings = {**golden.meta['cfg'], **more}
    kind = settings.pop('type')
    return Case(settings, lambda odd: build_nested(registry, ConfigDict(dict(odd, type=kind))), partial(use, golden))


def plain_case(kind: str, use: Any, registry: Any = TASK_UTILS, **settings: Any) -> Case:
    return Case(settings, lambda odd: build_nested(registry, dict(odd, type=kind)), use)


def model_cases() -> dict[str, Case]:
    """By name of the class."""
    view_settings = dict(in_channels=6, out_channels=4)
    return dict(
        ConvFuser=recorded_case('conv_fuser', fuse),
        GeneralizedLSSFPN=recorded_case('lssfpn_3level', pyramid, end_level=-1, no_norm_on_lateral=False),
        SwinTransformer=plain_case('bevfusion_plugin.SwinTransformer', see, MODELS, **SWIN),
        LSSTransform=recorded_case('lss_ds2', view, **view_settings),
        DepthLSSTransform=recorded_case('depth_lss_ds2', view, **view_settings),
        BEVFusionSparseEncoder=recorded_case('sparse_encoder_basicblock', encode, return_middle_feats=False),
        TransformerDecoderLayer=recorded_case('decoder_layer', decode_layer),
        TransFusionHead=recorded_case('head_nuscenes', head, num_heatmap_convs=2, bias='auto'),
        BEVFusion=recorded_case('e2e_lidar', detect),
        TransFusionBBoxCoder=recorded_case('bbox_coder_code10', code_boxes, TASK_UTILS),
        HungarianAssigner3D=recorded_case('hungarian_assigner', assign, TASK_UTILS),
        HeuristicAssigner3D=plain_case('HeuristicAssigner3D', partial(assign, load_golden('heuristic_assigner')), dist_thre=3.0),
        BBoxBEVL1Cost=plain_case('BBoxBEVL1Cost', cost_boxes, weight=0.25),
        IoU3DCost=plain_case('IoU3DCost', cost_overlaps, weight=0.25),
    )
