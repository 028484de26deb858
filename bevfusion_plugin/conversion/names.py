"""What the modules of three code bases are called, in the names of this package.

The names were read from the sources named below, not from published weight files, which were not at hand. Those of mit were seen
besides in users' logs (NVIDIA-AI-IOT/Lidar_AI_Solution#243, mit-han-lab/bevfusion#597).

Source:
    mmdet3d: mmdetection3d 1.4.0, projects/BEVFusion; its names are ours.
    mit: mit-han-lab/bevfusion, mmdet3d/models/fusion_models/bevfusion.py, heads/bbox/transfusion.py, utils/transformer.py.
    openpcdet: open-mmlab/OpenPCDet, pcdet/models/detectors/bevfusion.py, backbones_3d/spconv_backbone.py (VoxelResBackBone8x),
    backbones_2d/base_bev_backbone.py, dense_heads/transfusion_head.py, view_transforms/depth_lss.py.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

OURS = ('img_backbone', 'img_neck', 'view_transform', 'pts_middle_encoder', 'fusion_layer', 'pts_backbone', 'pts_neck', 'bbox_head')

# A decoder layer of TransFusion as mit and OpenPCDet write it, without mmcv's containers; second step after the prefix.
_DECODER_LAYER = [
    (r'(bbox_head\.decoder\.\d+)\.self_attn\.', r'\1.self_attn.attn.'),
    (r'(bbox_head\.decoder\.\d+)\.multihead_attn\.', r'\1.cross_attn.attn.'),
    (r'(bbox_head\.decoder\.\d+)\.linear1\.', r'\1.ffn.layers.0.0.'),
    (r'(bbox_head\.decoder\.\d+)\.linear2\.', r'\1.ffn.layers.1.'),
    *((rf'(bbox_head\.decoder\.\d+)\.norm{i + 1}\.', rf'\1.norms.{i}.') for i in range(3)),
]

# Each step is a list of (pattern, replacement) of which the first that fits is taken. A name that the first step does not know
# has no counterpart; later steps leave the others as they are.
_STEPS: dict[str, list[list[tuple[str, str]]]] = dict(
    mmdet3d=[[(rf'({"|".join(OURS)})\.', r'\1.')]],
    mit=[
        [
            (r'encoders\.camera\.backbone\.', 'img_backbone.'),
            (r'encoders\.camera\.neck\.', 'img_neck.'),
            (r'encoders\.camera\.vtransform\.', 'view_transform.'),
            (r'encoders\.lidar\.backbone\.', 'pts_middle_encoder.'),
            (r'fuser\.', 'fusion_layer.'),
            (r'decoder\.backbone\.', 'pts_backbone.'),
            (r'decoder\.neck\.', 'pts_neck.'),
            (r'heads\.object\.', 'bbox_head.'),
        ],
        _DECODER_LAYER,
    ],
    openpcdet=[
        [
            (r'image_backbone\.', 'img_backbone.'),
            (r'neck\.', 'img_neck.'),
            (r'vtransform\.', 'view_transform.'),
            (r'backbone_3d\.(conv_input|conv_out)\.', r'pts_middle_encoder.\1.'),
            # A stage opens with the strided convolution there and closes with it here.
            (r'backbone_3d\.conv1\.([01])\.', r'pts_middle_encoder.encoder_layers.encoder_layer1.\1.'),
            *((rf'backbone_3d\.conv{i}\.0\.', rf'pts_middle_encoder.encoder_layers.encoder_layer{i - 1}.2.') for i in (2, 3, 4)),
            *(
                (rf'backbone_3d\.conv{i}\.{j + 1}\.', rf'pts_middle_encoder.encoder_layers.encoder_layer{i}.{j}.')
                for i in (2, 3, 4)
                for j in (0, 1)
            ),
            (r'fuser\.conv\.', 'fusion_layer.'),
            # Its blocks open with a padding layer of their own, so that their numbers are one higher.
            (r'backbone_2d\.blocks\.(\d+)\.', r'pts_backbone.blocks.\1.'),
            (r'backbone_2d\.deblocks\.', 'pts_neck.deblocks.'),
            (r'dense_head\.decoder\.', 'bbox_head.decoder.0.'),
            (r'dense_head\.prediction_head\.', 'bbox_head.prediction_heads.0.'),
            (r'dense_head\.', 'bbox_head.'),
        ],
        _DECODER_LAYER,
        [(r'(bbox_head\.prediction_heads\.0\.\w+\.0)\.0\.', r'\1.conv.'), (r'(bbox_head\.prediction_heads\.0\.\w+\.0)\.1\.', r'\1.bn.')],
    ],
)
SOURCES = tuple(_STEPS)
BOOKKEEPING = ('global_step',)  # of OpenPCDet: counts iterations


def our_name(key: str, source: str) -> str | None:
    """What the parameter or buffer ``key`` of ``source`` is called here, None if it has no counterpart.

    Args:
        key: Name in the checkpoint, without a leading ``module.``.
        source: One of ``SOURCES``.
    """
    first, *others = _STEPS[source]
    name = _replaced(key, first)
    if name is None:
        return None
    for step in others:
        name = _replaced(name, step) or name
    return _without_padding_layer(name) if source == 'openpcdet' else name


def _replaced(name: str, step: list[tuple[str, str]]) -> str | None:
    for pattern, replacement in step:
        match = re.match(pattern, name)
        if match:
            return match.expand(replacement) + name[match.end() :]
    return None


def _without_padding_layer(name: str) -> str:
    return re.sub(r'^(pts_backbone\.blocks\.\d+)\.(\d+)\.', lambda match: f'{match[1]}.{int(match[2]) - 1}.', name)


def check_source(keys: Iterable[str], source: str) -> None:
    """Make sure that the checkpoint is one of ``source``.

    Raises:
        ValueError: If none of its keys is; the message shows what they are, and whose they look like.
    """
    keys = list(keys)
    known = {name: sum(our_name(key, name) is not None for key in keys) for name in SOURCES}
    if known[source]:
        return
    likely = max(known, key=known.__getitem__)
    mend = (
        f'they look like those of {likely}: use --from {likely}'
        if known[likely]
        else (f'only BEVFusion checkpoints of {", ".join(SOURCES)} are known')
    )
    modules = Counter('.'.join(key.split('.')[:2]) for key in keys)
    seen = ', '.join(f'{name}.* ({count})' for name, count in modules.most_common(8)) or 'none at all'
    raise ValueError(f'not a BEVFusion checkpoint of {source}: its keys are {seen}; {mend}')
