"""What a ``BEVFusion`` knows of its settings: which parts belong together, and what cannot work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bevfusion_plugin.plan.checked_settings import (
    corners,
    finite_number,
    finite_numbers,
    grid_axis,
    is_sequence,
    positive_int,
    positive_numbers,
    settings_dict,
    switch,
    whole_numbers,
)

CAMERA_BRANCH = ('img_backbone', 'img_neck', 'view_transform')
REQUIRED = ('pts_backbone', 'pts_neck', 'bbox_head')  # of any model, whatever its sensors
COLORS = 'they are for red, green and blue of images from 0 to 255'
SWITCHES = ('bgr_to_rgb', 'rgb_to_bgr', 'non_blocking', 'pad_mask', 'pad_seg', 'boxtype2tensor')


def checked_preprocessor(cfg: Mapping) -> tuple[dict[str, Any], dict[str, Any]]:
    """Copies of the config of the data preprocessor, without ``voxelize_cfg``, and of that.

    Raises:
        ValueError: If a setting is missing or cannot be; the message names it and shows its value.
    """
    cfg = dict(
        settings_dict(
            'data_preprocessor',
            cfg,
            'voxelize_cfg',
            mend='voxelize_cfg holds voxel_size, point_cloud_range, max_num_points, max_voxels and voxelize_reduce',
        )
    )
    voxelize_cfg = checked_voxelize_cfg(cfg.pop('voxelize_cfg'))
    cfg.setdefault('type', 'Det3DDataPreprocessor')
    for name, numbers in (('mean', finite_numbers), ('std', positive_numbers)):
        colors = cfg.get(name)
        if colors is not None and len(numbers(f'data_preprocessor.{name}', colors, mend=COLORS)) not in (1, 3):
            raise ValueError(f'data_preprocessor.{name} must be 3 numbers or 1, got {colors!r}; {COLORS}')
    positive_int('data_preprocessor.pad_size_divisor', cfg.get('pad_size_divisor', 1), mend='sides of images become multiples of it')
    finite_number('data_preprocessor.pad_value', cfg.get('pad_value', 0))
    for name in SWITCHES:
        switch(f'data_preprocessor.{name}', cfg.get(name, False))
    return cfg, voxelize_cfg


def checked_voxelize_cfg(voxelize_cfg: dict) -> dict[str, Any]:
    """A copy of ``data_preprocessor.voxelize_cfg``, with ``max_voxels`` as a pair: one number, which mmdet3d takes, is both.

    Raises:
        ValueError: If a setting is missing or cannot be; the message names it.
    """
    settings_dict('voxelize_cfg', voxelize_cfg, 'voxel_size', 'point_cloud_range', 'max_num_points', 'max_voxels')
    bounds = corners('voxelize_cfg.point_cloud_range', voxelize_cfg['point_cloud_range'])
    sizes = positive_numbers('voxelize_cfg.voxel_size', voxelize_cfg['voxel_size'], 3)
    for lower, upper, size in zip(bounds[:3], bounds[3:], sizes):
        grid_axis(f'voxelize_cfg.voxel_size {list(sizes)} in point_cloud_range {list(bounds)}', (lower, upper, size), 'in metres')
    positive_int('voxelize_cfg.max_num_points', voxelize_cfg['max_num_points'])
    most = voxelize_cfg['max_voxels']
    if not is_sequence(most):
        most = [positive_int('voxelize_cfg.max_voxels', most, mend='or write two, for training and for testing')] * 2
    whole_numbers('voxelize_cfg.max_voxels', most, 2, mend='they are for training and for testing')
    switch('voxelize_cfg.voxelize_reduce', voxelize_cfg.get('voxelize_reduce', False))
    return dict(voxelize_cfg, max_voxels=most)


def check_branches(parts: Mapping[str, Mapping | None]) -> None:
    """Make sure that the parts of a detector, by name, make one: cameras, lidar or both, and a fuser for both.

    Raises:
        ValueError: Naming what is missing or too much, or a part whose config is none.
    """
    for name, cfg in parts.items():
        if cfg is not None or name in REQUIRED:
            settings_dict(name, cfg, 'type')
    given = [name for name in CAMERA_BRANCH if parts[name] is not None]
    missing = [name for name in CAMERA_BRANCH if parts[name] is None]
    if given and missing:
        raise ValueError(
            f'the camera branch needs {", ".join(CAMERA_BRANCH)}, but {", ".join(missing)} is missing; '
            'give all of them, or none for a lidar-only model'
        )
    has_lidar, has_fuser = parts['pts_middle_encoder'] is not None, parts['fusion_layer'] is not None
    if not given and not has_lidar:
        raise ValueError(
            'pts_middle_encoder must be a dict with type, got None; it is the lidar branch, and without it the model '
            f'needs cameras: {", ".join(CAMERA_BRANCH)}'
        )
    if given and has_lidar and not has_fuser:
        raise ValueError(
            'the camera branch needs fusion_layer beside pts_middle_encoder, but fusion_layer is missing; it joins the maps '
            "of both, as dict(type='bevfusion_plugin.ConvFuser', ...)"
        )
    if has_fuser and not given:
        raise ValueError(
            f'fusion_layer must be None without the camera branch ({", ".join(CAMERA_BRANCH)}), got '
            f'{parts["fusion_layer"]!r}: there is one map'
        )
