"""mmdet3d's own parts in this detector, whose axes stand the other way round.

Ours have x first: voxels (sample, x, y, z), maps (B, C, X, Y). mmdet3d's have it last: (sample, z, y, x), (B, C, Y, X).

Source: mmdetection3d 1.4.0, models/voxel_encoders, middle_encoders, dense_heads.
"""

from __future__ import annotations

from torch import Tensor, nn

# What has been tried in this detector, by its part, and what to take in place of the others.
WORKING = dict(
    pts_voxel_encoder=('HardSimpleVFE', 'HardVFE', 'PillarFeatureNet'),
    pts_middle_encoder=('PointPillarsScatter',),
    bbox_head=('CenterHead', 'Anchor3DHead'),
)
ROOMS = dict(pts_voxel_encoder='voxel_encoders', pts_middle_encoder='middle_encoders', bbox_head='dense_heads')
OURS = dict(
    pts_voxel_encoder='voxelize_cfg.voxelize_reduce=True',
    pts_middle_encoder='bevfusion_plugin.BEVFusionSparseEncoder',
    bbox_head='bevfusion_plugin.TransFusionHead',
)


def has_x_last(name: str, part: nn.Module | None) -> bool:
    """Whether this part of a detector, or a class that it is derived from, is mmdet3d's.

    Args:
        name: ``pts_voxel_encoder``, ``pts_middle_encoder`` or ``bbox_head``.
        part: It, None if the detector has none.

    Raises:
        ValueError: If it is one that cannot work here.
    """
    classes = [cls.__name__ for cls in type(part).__mro__ if cls.__module__.startswith(f'mmdet3d.models.{ROOMS[name]}.')]
    if classes and not set(classes) & set(WORKING[name]):
        raise ValueError(
            f'{name} cannot be {type(part).__name__}: it takes other inputs than this detector has; take {OURS[name]}, or of '
            f"mmdet3d's {', '.join(WORKING[name])}"
        )
    return bool(classes)


def zyx(coords: Tensor) -> Tensor:
    """Voxels (V, 4) as (sample, z, y, x), of (sample, x, y, z)."""
    return coords[:, [0, 3, 2, 1]]


def transposed(bev: Tensor) -> Tensor:
    """A map (B, C, Y, X) of (B, C, X, Y), or the other way round."""
    return bev.transpose(2, 3).contiguous()
