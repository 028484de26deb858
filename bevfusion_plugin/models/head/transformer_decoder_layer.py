"""TransFusion's decoder layer: object queries attend to each other, then to every cell of the BEV map.

Letters: B samples, C channels, Q queries, K keys (cells of the BEV map, x * Y + y).
"""

from __future__ import annotations

import torch
from mmcv.cnn import build_norm_layer
from mmcv.cnn.bricks.transformer import FFN, MultiheadAttention
from mmengine.model import BaseModule, ModuleList
from torch import Tensor, nn

from bevfusion_plugin.plan.checked_settings import channel_count, checked_share, settings_dict
from bevfusion_plugin.registry import MODELS


class PositionEncodingLearned(nn.Module):
    """Learned embedding of positions: two 1x1 convolutions with BatchNorm and ReLU between them.

    In training mode the BatchNorm couples the samples of a batch. Autocast is switched off inside: cell
    positions such as 179.5 need more than the 8 significant bits of bfloat16.

    Args:
        input_channel: Coordinates of a position, 2 for (x, y) in cells.
        num_pos_feats: Channels C of the embedding.

    Source: TransFusion (arXiv 2203.11496); parameter names as in mmdetection3d projects/BEVFusion, transformer.py.
    """

    def __init__(self, input_channel: int, num_pos_feats: int) -> None:
        super().__init__()
        self.position_embedding_head = nn.Sequential(
            nn.Conv1d(input_channel, num_pos_feats, kernel_size=1),
            nn.BatchNorm1d(num_pos_feats),
            nn.ReLU(inplace=True),
            nn.Conv1d(num_pos_feats, num_pos_feats, kernel_size=1),
        )

    def forward(self, positions: Tensor) -> Tensor:
        """Embeddings (B, N, C) of ``positions`` (B, N, input_channel)."""
        with torch.autocast(positions.device.type, enabled=False):
            return self.position_embedding_head(positions.transpose(1, 2)).transpose(1, 2)


class ResidualAttention(MultiheadAttention):
    """mmcv's ``MultiheadAttention``, same parameters and config, which on a GPU never stores the attention weights.

    A cross-attention of 200 queries with 180 x 180 cells and 8 heads has 51.8 million weights a sample. mmcv's
    forward asks PyTorch for their mean, which it drops; not asking lets PyTorch take its fused kernels. On a CPU,
    whose kernels do not help in training, the results stay bit for bit mmcv's.

    Args:
        embed_dims: Channels C.
        num_heads: Attention heads; divides ``embed_dims``.
        dropout: Drop probability of the attention weights and of the output, as ``dropout`` of mmcv 1.x.
        **kwargs: Other arguments of mmcv's class (``attn_drop``, ``proj_drop``, ``dropout_layer``).
    """

    def __init__(self, embed_dims: int, num_heads: int, dropout: float | None = None, **kwargs) -> None:
        if dropout is not None:  # mmcv warns about the old word and writes it into a shared default dict
            kwargs.update(attn_drop=dropout, dropout_layer=dict(type='Dropout', drop_prob=dropout))
        super().__init__(embed_dims, num_heads, **kwargs)

    def forward(self, query: Tensor, query_pos: Tensor, key: Tensor, key_pos: Tensor) -> Tensor:
        """``query`` (B, Q, C) plus what it attends to in ``key`` (B, K, C); the values carry ``key_pos`` too."""
        located = key + key_pos
        attended, _ = self.attn(
            (query + query_pos).transpose(0, 1), located.transpose(0, 1), located.transpose(0, 1), need_weights=not query.is_cuda
        )  # (Q, B, C)
        return query + self.dropout_layer(self.proj_drop(attended.transpose(0, 1)))


def check_layer_config(self_attn_cfg: dict, cross_attn_cfg: dict, ffn_cfg: dict, pos_encoding_cfg: dict) -> None:
    """Raise a ``ValueError`` that names the number of a ``TransformerDecoderLayer`` that cannot be."""
    required = dict(
        self_attn_cfg=('embed_dims', 'num_heads'),
        cross_attn_cfg=('embed_dims', 'num_heads'),
        ffn_cfg=(),
        pos_encoding_cfg=('input_channel', 'num_pos_feats'),
    )
    configs = dict(self_attn_cfg=self_attn_cfg, cross_attn_cfg=cross_attn_cfg, ffn_cfg=ffn_cfg, pos_encoding_cfg=pos_encoding_cfg)
    for part, cfg in configs.items():
        settings_dict(part, cfg, *required[part])
        for name in {*required[part], 'embed_dims', 'feedforward_channels'} & set(cfg):
            channel_count(f'{part}.{name}', cfg[name])
        for name in {'dropout', 'attn_drop', 'proj_drop', 'ffn_drop'} & set(cfg):
            if name != 'dropout' or cfg[name] is not None:
                checked_share(f'{part}.{name}', cfg[name])
    width = self_attn_cfg['embed_dims']
    for part, name, channels in (
        ('cross_attn_cfg', 'embed_dims', cross_attn_cfg['embed_dims']),
        ('ffn_cfg', 'embed_dims', ffn_cfg.get('embed_dims', 256)),  # mmcv's own
        ('pos_encoding_cfg', 'num_pos_feats', pos_encoding_cfg['num_pos_feats']),
    ):
        if channels != width:
            raise ValueError(f'{part}.{name} must be that of self_attn_cfg, embed_dims={width}, got {channels} from {configs[part]!r}')
    for part, cfg in (('self_attn_cfg', self_attn_cfg), ('cross_attn_cfg', cross_attn_cfg)):
        if width % cfg['num_heads']:
            raise ValueError(f'{part}.num_heads must divide embed_dims={width}, got {cfg["num_heads"]}')


@MODELS.register_module()
class TransformerDecoderLayer(BaseModule):
    """Decoder layer with learned position embeddings: attention, norm, attention, norm, FFN, norm.

    Unlike DETR's, the values of both attentions contain the position embedding.

    Args:
        self_attn_cfg: Arguments of the attention among the queries, e.g.
            ``dict(embed_dims=128, num_heads=8, dropout=0.1)``.
        cross_attn_cfg: The same for the attention of the queries to the BEV cells.
        ffn_cfg: Arguments of mmcv's ``FFN``.
        norm_cfg: Norm after each of the three parts.
        pos_encoding_cfg: Arguments of ``PositionEncodingLearned``; one is built for queries, one for cells.
        init_cfg: MMEngine's initialisation config, applied after the layer's own Xavier initialisation.

    Raises:
        ValueError: If the numbers cannot be, or do not fit together.

    Source: TransFusion (arXiv 2203.11496, section 3.2); names as in mmdetection3d projects/BEVFusion, transformer.py.
    """

    def __init__(
        self, self_attn_cfg: dict, cross_attn_cfg: dict, ffn_cfg: dict, norm_cfg: dict, pos_encoding_cfg: dict, init_cfg: dict | None = None
    ) -> None:
        check_layer_config(self_attn_cfg, cross_attn_cfg, ffn_cfg, pos_encoding_cfg)
        settings_dict('norm_cfg', norm_cfg, 'type')
        super().__init__(init_cfg)
        self.self_attn = ResidualAttention(**self_attn_cfg)
        self.cross_attn = ResidualAttention(**cross_attn_cfg)
        self.ffn = FFN(**ffn_cfg)
        self.norms = ModuleList(build_norm_layer(norm_cfg, self.self_attn.embed_dims)[1] for _ in range(3))
        self.self_posembed = PositionEncodingLearned(**pos_encoding_cfg)
        self.cross_posembed = PositionEncodingLearned(**pos_encoding_cfg)

    def init_weights(self) -> None:
        """Xavier-uniform for every weight of more than one dimension."""
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        super().init_weights()

    def forward(self, query: Tensor, key: Tensor, query_pos: Tensor, key_pos: Tensor) -> Tensor:
        """Refined query features (B, C, Q).

        Args:
            query: Query features (B, C, Q).
            key: Features of the BEV cells (B, C, K).
            query_pos: Positions of the queries (B, Q, 2), (x, y) in cells.
            key_pos: Positions of the cells (B, K, 2).
        """
        query, key = query.transpose(1, 2), key.transpose(1, 2)  # (B, Q, C), (B, K, C)
        query_pos, key_pos = self.self_posembed(query_pos), self.cross_posembed(key_pos)
        query = self.norms[0](self.self_attn(query, query_pos, query, query_pos))
        query = self.norms[1](self.cross_attn(query, query_pos, key, key_pos))
        return self.norms[2](self.ffn(query)).transpose(1, 2)
