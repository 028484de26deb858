"""BEVFusion's lidar encoder: sparse 3D convolutions from voxels to a bird's eye view map.

Letters: V voxels, C channels, B samples, X x Y x Z voxel grid, Dz heights left at the end.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule
from torch import Tensor, nn

from bevfusion_plugin.ops.map_size import strided_cells
from bevfusion_plugin.ops.sparse.conv import SparseConv3d, SparseModule, SparseSequential, SubMConv3d, apply_layer
from bevfusion_plugin.ops.sparse.tensor import SparseTensor
from bevfusion_plugin.plan.checked_settings import channel_count, channel_counts, is_sequence, one_of, settings_dict, switch, whole_numbers
from bevfusion_plugin.registry import MODELS

NORM_CFG = dict(type='BN1d', eps=1e-3, momentum=0.01)


class SparseBasicBlock(SparseModule):
    """Residual block of two submanifold convolutions with the same number of channels.

    Args:
        channels: C before and after.
        norm_cfg: Norm over (V, C).
    """

    def __init__(self, channels: int, norm_cfg: dict) -> None:
        super().__init__()
        self.conv1 = SubMConv3d(channels, channels, 3, bias=False)
        self.norm1_name, norm1 = build_norm_layer(norm_cfg, channels, postfix=1)
        self.add_module(self.norm1_name, norm1)
        self.conv2 = SubMConv3d(channels, channels, 3, bias=False)
        self.norm2_name, norm2 = build_norm_layer(norm_cfg, channels, postfix=2)
        self.add_module(self.norm2_name, norm2)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """(V, C) on the sites of ``x`` (V, C)."""
        out = self.conv1(x)
        out = out.replace_feature(self.relu(apply_layer(getattr(self, self.norm1_name), out.features)))
        out = self.conv2(out)
        features = apply_layer(getattr(self, self.norm2_name), out.features)
        return out.replace_feature(self.relu(features + x.features))


@MODELS.register_module()
class BEVFusionSparseEncoder(BaseModule):
    """Voxels to a BEV map whose first spatial axis is x.

    An input convolution, stages that halve the grid by one strided convolution each, and an output
    convolution (1, 1, 3) with stride (1, 1, 2) that shortens z; what is left of z is folded into the channels. The
    convolutions start from Kaiming uniform values (``SubMConv3d.reset_parameters``), so ``init_cfg`` is not needed.

    Args:
        in_channels: C of a voxel.
        sparse_shape: Voxel grid (X, Y, Z). Z is one more than the voxelizer makes in the usual configs (41 for
            40), which lets it be halved three times with padding 1, 1, 0.
        order: 'conv', 'norm' and 'act' in some order. As in the reference only the input convolution reads it:
            if 'conv' is not the first, it has neither norm nor activation.
        norm_cfg: Norm over (V, C).
        base_channels: C after the input convolution.
        output_channels: C after the output convolution; the map has ``output_channels * Dz``.
        encoder_channels: For each stage C after each of its blocks.
        encoder_paddings: For each stage the padding of each of its blocks. Only that of a strided one counts.
        block_type: 'conv_module': one convolution a block, the first one of every stage but the first is
            strided. 'basicblock': residual blocks, the last block of every stage but the last is a strided
            convolution.
        return_middle_feats: Whether to return the sparse tensor after each stage, too.

    Raises:
        ValueError: If an argument is out of its range or the channels do not fit together.

    Source: SECOND (Yan et al., Sensors 2018); argument names, parameter names and block order of
    ``BEVFusionSparseEncoder`` and ``SparseEncoder`` in mmdetection3d 1.4.0. Here the batch size is the argument of
    ``forward``, and a batch or a sample without voxels is encoded to zeros.
    """

    def __init__(
        self,
        in_channels: int,
        sparse_shape: Sequence[int],
        order: Sequence[str] = ('conv', 'norm', 'act'),
        norm_cfg: dict = NORM_CFG,
        base_channels: int = 16,
        output_channels: int = 128,
        encoder_channels: Sequence[Sequence[int]] = ((16,), (32, 32, 32), (64, 64, 64), (64, 64, 64)),
        encoder_paddings: Sequence[Sequence] = ((1,), (1, 1, 1), (1, 1, 1), ((0, 1, 1), 1, 1)),
        block_type: str = 'conv_module',
        return_middle_feats: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        for name, channels in dict(in_channels=in_channels, base_channels=base_channels, output_channels=output_channels).items():
            channel_count(name, channels)
        settings_dict('norm_cfg', norm_cfg, 'type'), switch('return_middle_feats', return_middle_feats)
        _check(sparse_shape, order, encoder_channels, encoder_paddings, block_type)
        self.sparse_shape = tuple(sparse_shape)
        self._sites_fit = False  # whether a batch has been found to lie inside the grid
        self.return_middle_feats = return_middle_feats
        conv_input = SubMConv3d(in_channels, base_channels, 3, bias=False)
        self.conv_input = _conv_module(conv_input, norm_cfg) if order[0] == 'conv' else SparseSequential(conv_input)
        self.encoder_layers = SparseSequential()
        channels = base_channels
        make_stage = _basicblock_stage if block_type == 'basicblock' else _conv_stage
        for i, (widths, paddings) in enumerate(zip(encoder_channels, encoder_paddings)):
            strided = i > 0 if block_type == 'conv_module' else i < len(encoder_channels) - 1
            self.encoder_layers.add_module(f'encoder_layer{i + 1}', make_stage(channels, widths, paddings, strided, norm_cfg))
            channels = widths[-1]
        self.conv_out = _conv_module(SparseConv3d(channels, output_channels, (1, 1, 3), stride=(1, 1, 2), bias=False), norm_cfg)
        self.output_channels = output_channels
        if not self.map_channels:
            raise ValueError(
                f'sparse_shape {list(sparse_shape)} is too flat: its {sparse_shape[2]} cells along z are gone before the last '
                'convolution; lower the voxel height, or take a higher range'
            )

    @property
    def map_channels(self) -> int:
        """Channels of the map: ``output_channels * Dz``."""
        cells = self.sparse_shape[2]
        for conv in self.modules():
            if isinstance(conv, SparseConv3d):
                cells = strided_cells(cells, conv.kernel_size[2], conv.stride[2], conv.padding[2])
        return self.output_channels * cells

    def forward(self, voxel_features: Tensor, coors: Tensor, batch_size: int) -> Tensor | tuple[Tensor, list[SparseTensor]]:
        """BEV map (B, output_channels * Dz, X', Y'), channel ``c * Dz + z``.

        Args:
            voxel_features: (V, in_channels).
            coors: (V, 4) integer (sample, x, y, z), each voxel once.
            batch_size: B; a sample may have no voxel.

        Returns:
            The map, and with ``return_middle_feats`` also the sparse tensor after each stage.

        Raises:
            ValueError: If shapes do not fit or a voxel lies outside the grid or the batch. On a GPU, where each look makes
                the host wait, only the first batch is looked at: what does not fit there is ``sparse_shape``.
        """
        x = SparseTensor(voxel_features, coors.int(), self.sparse_shape, int(batch_size))
        if x.indices.device.type == 'cpu' or not self._sites_fit:
            x.check()
            self._sites_fit = True
        with torch.autocast(voxel_features.device.type, enabled=False):  # bfloat16 would round metres to 0.25
            x = self.conv_input(x)
        stages = []
        for stage in self.encoder_layers:
            x = stage(x)
            stages.append(x)
        volume = self.conv_out(x).dense()  # (B, C, X', Y', Dz)
        bev = volume.permute(0, 1, 4, 2, 3).flatten(1, 2)  # (B, C * Dz, X', Y')
        return (bev, stages) if self.return_middle_feats else bev


def _conv_module(conv: nn.Module, norm_cfg: dict) -> SparseSequential:
    return SparseSequential(conv, build_norm_layer(norm_cfg, conv.out_channels)[1], nn.ReLU(inplace=True))


def _conv_stage(channels: int, widths: Sequence[int], paddings: Sequence, strided: bool, norm_cfg: dict) -> SparseSequential:
    """One convolution for each width, the first one strided where the stage is."""
    blocks = []
    for j, (width, padding) in enumerate(zip(widths, paddings)):
        conv: SparseConv3d | SubMConv3d
        if strided and j == 0:
            conv = SparseConv3d(channels, width, 3, stride=2, padding=padding, bias=False)
        else:
            conv = SubMConv3d(channels, width, 3, bias=False)
        blocks.append(_conv_module(conv, norm_cfg))
        channels = width
    return SparseSequential(*blocks)


def _basicblock_stage(channels: int, widths: Sequence[int], paddings: Sequence, strided: bool, norm_cfg: dict) -> SparseSequential:
    """One residual block for each width, a strided convolution in place of the last one where the stage is."""
    residual = widths[:-1] if strided else widths
    if any(width != channels for width in residual):
        raise ValueError(
            f'residual blocks keep the number of channels: with {channels} coming in, encoder_channels '
            f'of this stage (or base_channels before the first) must start with {channels}, got {list(widths)}'
        )
    blocks: list[nn.Module] = [SparseBasicBlock(width, norm_cfg) for width in residual]
    if strided:
        conv = SparseConv3d(channels, widths[-1], 3, stride=2, padding=paddings[-1], bias=False)
        blocks.append(_conv_module(conv, norm_cfg))
    return SparseSequential(*blocks)


def _check(
    sparse_shape: Sequence[int],
    order: Sequence[str],
    encoder_channels: Sequence[Sequence[int]],
    encoder_paddings: Sequence[Sequence],
    block_type: str,
) -> None:
    one_of('block_type', block_type, ('conv_module', 'basicblock'))
    if not is_sequence(order) or sorted(map(str, order)) != ['act', 'conv', 'norm']:
        raise ValueError(f"order must hold 'conv', 'norm' and 'act' once each, got {order}")
    whole_numbers('sparse_shape', sparse_shape, 3, mend='it is (x, y, z)')
    for name, stages in dict(encoder_channels=encoder_channels, encoder_paddings=encoder_paddings).items():
        if not is_sequence(stages) or not all(map(is_sequence, stages)):
            raise ValueError(f'{name} must have a row of numbers for each stage, got {stages!r}')
    for widths in encoder_channels:
        channel_counts('encoder_channels', widths)
    for padding in itertools.chain(*encoder_paddings):
        whole_numbers('encoder_paddings', padding if is_sequence(padding) else [padding], 3 if is_sequence(padding) else 1, least=0)
    blocks = [len(widths) for widths in encoder_channels]
    paddings = [len(stage) for stage in encoder_paddings]
    if blocks != paddings or not blocks or min(blocks) < 1:
        raise ValueError(
            'encoder_paddings must have one entry for each of encoder_channels and no stage may be '
            f'empty, got stages of {blocks} blocks and of {paddings} paddings'
        )
