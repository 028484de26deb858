"""Whether what the lidar encoder makes of the voxel grid's height fits the part behind it."""

from __future__ import annotations

from torch import nn


def check_map_channels(encoder: nn.Module | None, fusion_layer: nn.Module | None, backbone: nn.Module) -> None:
    """Compare the channels of the lidar's map with those that the fuser, or without cameras SECOND, takes.

    Args:
        encoder: The lidar encoder; one that does not tell its ``map_channels`` is not checked.
        fusion_layer: The fuser with its ``in_channels``, the lidar's last; None: the backbone gets the lidar's map.
        backbone: The network behind; checked if it is mmdet3d's SECOND, whose first convolution takes the map.

    Raises:
        ValueError: With both numbers.
    """
    given = getattr(encoder, 'map_channels', None)
    if given is None:
        return
    if fusion_layer is not None:
        name, taken = 'fusion_layer.in_channels[-1]', getattr(fusion_layer, 'in_channels', [None])[-1]
    else:
        first = next((module for module in backbone.modules() if isinstance(module, nn.Conv2d)), None)
        name, taken = 'pts_backbone.in_channels', first.in_channels if first is not None and type(backbone).__name__ == 'SECOND' else None
    if taken is not None and taken != given:
        width, shape = (getattr(encoder, key) for key in ('output_channels', 'sparse_shape'))
        raise ValueError(
            f'the lidar encoder gives {given} channels ({width} x {given // width} heights, which '
            f'its sparse_shape {list(shape)} leaves), but {name} is {taken}; set it to {given}, or change the '
            'voxel height'
        )
