"""Rules about the sizes of the maps that one part of the model hands to the next: their cells, and their channels."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from bevfusion_plugin.doctor.case import Case
from bevfusion_plugin.doctor.finding import Problem, rule
from bevfusion_plugin.doctor.reading.config import count, is_ours, mapping, number, parts, short_name
from bevfusion_plugin.doctor.reading.model import lifts_images
from bevfusion_plugin.doctor.reading.voxel_grid import (
    XYZ_ENCODERS,
    VoxelGrid,
    encoder_cells,
    encoder_stride,
    head_stride,
    neck_levels,
    numbers,
    sparse_encoder,
    voxel_grid,
)
from bevfusion_plugin.ops.map_size import cells_after_strides

# Who gives what to whom, in the order that they run: (part, its setting), (part, its setting, place in a list).
CHAIN = (
    (('img_neck', 'out_channels'), ('view_transform', 'in_channels', None)),
    (('view_transform', 'out_channels'), ('fusion_layer', 'in_channels', 0)),
    (('fusion_layer', 'out_channels'), ('pts_backbone', 'in_channels', None)),
    (('pts_backbone', 'out_channels'), ('pts_neck', 'in_channels', None)),
    (('pts_neck', 'out_channels'), ('bbox_head', 'in_channels', None)),
)


@rule('grid-not-divisible', 'error', 'https://github.com/open-mmlab/mmdetection3d/tree/main/projects/BEVFusion')
def check_divisible(case: Case) -> Iterator[Problem]:
    """The strides of encoder and backbone divide the voxel grid: else the levels of the neck, or head and network, do not fit."""
    grid, found = voxel_grid(case.cfg), sparse_encoder(case.cfg)
    stride = encoder_stride(found[1]) if found else None
    steps = neck_levels(case.cfg, 2**16) and mapping(_part(case, 'backbone')).get('layer_strides', [2, 2, 2])
    if grid is None or not stride or not steps:
        return
    for axis, name in enumerate('xy'):
        whole = stride * math.prod(steps)
        cells = grid.cells[axis]
        if cells % whole == 0:
            continue
        levels = neck_levels(case.cfg, cells_after_strides(cells, stride)) or []  # known for one number of cells: for all
        fails = len(set(levels)) > 1 or not is_ours(case.cfg.get('model')) and cells % stride
        scene = _nearest_scene(grid, axis, whole)
        what = f'levels of {", ".join(map(str, levels))} cells' if len(set(levels)) > 1 else 'a map that reaches beyond the range'
        yield Problem(
            f'{cells} voxels along {name} ({grid.scene[axis]:g} to {grid.scene[axis + 3]:g} m by {grid.voxel_size[axis]:g} m) are '
            f'no multiple of {whole}, the product of all strides: {what}',
            f'the nearest range along {name} is {scene[axis]:g} to {scene[axis + 3]:g} m',
            {_scene_key(case): scene} if fails else {},
            severity=None if fails else 'warning',
        )
        return  # the changed range is examined anew


def _part(case: Case, name: str) -> Any:
    model = mapping(case.cfg.get('model'))
    return model.get(f'pts_{name}') or model.get(name)


def _scene_key(case: Case) -> str:
    preprocessor = mapping(mapping(case.cfg.get('model')).get('data_preprocessor'))
    return f'model.data_preprocessor.{"voxelize_cfg" if preprocessor.get("voxelize_cfg") else "voxel_layer"}.point_cloud_range'


def _nearest_scene(grid: VoxelGrid, axis: int, whole: int) -> list[float]:
    """The scene with the nearest whole number of cells along ``axis``, its middle kept."""
    cells = max(whole, whole * round(grid.cells[axis] / whole))
    middle, half = (grid.scene[axis] + grid.scene[axis + 3]) / 2, cells * grid.voxel_size[axis] / 2
    scene = list(grid.scene)
    scene[axis], scene[axis + 3] = round(middle - half, 6), round(middle + half, 6)
    return scene


@rule('out-size-factor', 'error', 'mmdet3d/models/dense_heads/centerpoint_head.py, get_targets_single')
def check_out_size_factor(case: Case) -> Iterator[Problem]:
    """A head that thinks its map is finer or coarser than it is."""
    stride = head_stride(case.cfg)
    wrong = {}
    for name in ('bbox_head', 'pts_bbox_head', 'train_cfg', 'test_cfg') if stride else ():
        for path, part in parts(mapping(case.cfg.get('model')).get(name), f'model.{name}'):
            if number(part.get('out_size_factor')) not in (None, stride):
                wrong[f'{path}.out_size_factor'] = part['out_size_factor']
    if wrong:
        shown = ', '.join(f'{key}={value}' for key, value in wrong.items())
        yield Problem(
            f'{shown}, but sparse encoder, backbone and neck together make a map of one cell for {stride} voxels',
            f'set it to {stride}',
            dict.fromkeys(wrong, stride),
        )


@rule('view-transform-grid', 'error', 'https://github.com/open-mmlab/mmdetection3d/tree/main/projects/BEVFusion')
def check_view_grid(case: Case) -> Iterator[Problem]:
    """A camera map whose cells are not those of the lidar map."""
    grid, found = voxel_grid(case.cfg), sparse_encoder(case.cfg)
    stride = encoder_stride(found[1]) if found else None
    if not (grid and stride and lifts_images(case.cfg)):
        return
    view = mapping(case.cfg.model.view_transform)
    downsample = number(view.get('downsample', 1)) or 1
    for axis, key in enumerate(('xbound', 'ybound')):
        bound = numbers(view.get(key), 3)
        cells = cells_after_strides(grid.cells[axis], stride)
        lower, upper = grid.scene[axis], grid.scene[axis + 3]
        if grid.cells[axis] % stride:  # the map reaches beyond the scene
            upper = round(lower + cells * stride * grid.voxel_size[axis], 9)
        size = round((upper - lower) / (cells * downsample), 9)
        if _truncated(lower, upper, size) != cells * downsample:  # 67.2 / 0.6 is 111.99 in floats
            size = round(size - 1e-9, 9)
        right = [lower, upper, size]
        if bound is not None and (any(abs(a - b) > 1e-4 for a, b in zip(bound, right)) or _truncated(*bound) != cells * downsample):
            yield Problem(
                f'model.view_transform.{key}={list(bound)} with downsample={downsample:g} is another grid than the '
                f'lidar map of {cells} cells over {upper - lower:g} m',
                f'set it to {right}',
                {f'model.view_transform.{key}': right},
            )


def _truncated(lower: float, upper: float, size: float) -> int | None:
    """Cells that the view transform makes of a bound: it cuts the float quotient off, as the reference does."""
    return int((upper - lower) / size) if size > 0 else None


@rule('height-channels', 'error', 'mmdet3d/models/middle_encoders/sparse_encoder.py')
def check_height_channels(case: Case) -> Iterator[Problem]:
    """What is left of the grid's height is folded into the channels, which the next part has to take."""
    found = sparse_encoder(case.cfg)
    if found is None:
        return
    place, encoder = found
    cells, width = encoder_cells(encoder), count(encoder.get('output_channels', 128))
    if not cells or not width:
        return
    left = cells[2 if short_name(encoder) in XYZ_ENCODERS else 0]
    if not left:
        yield Problem(
            f'{place}.sparse_shape={list(encoder["sparse_shape"])} is too flat: the encoder leaves nothing of its height',
            'lower the voxel height, or take a higher range',
        )
        return
    model = mapping(case.cfg.get('model'))
    fuser: Any = mapping(model.get('fusion_layer')).get('in_channels')
    fused = isinstance(fuser, (list, tuple)) and len(fuser) == 2
    key = (
        'model.fusion_layer.in_channels'
        if fused
        else 'model.pts_backbone.in_channels'
        if model.get('pts_backbone')
        else 'model.backbone.in_channels'
    )
    taken = fuser[1] if fused else count(mapping(_part(case, 'backbone')).get('in_channels'))
    if taken is not None and taken != left * width:
        right: Any = [fuser[0], left * width] if fused else left * width
        yield Problem(
            f'the lidar encoder gives {left * width} channels ({width} x {left} heights, which its sparse_shape '
            f'{list(encoder["sparse_shape"])} leaves), but {key} takes {taken}',
            f'set {key} to {right}, or make the voxels so high that {taken / width:g} heights are left',
            {key: right},
        )


@rule('channels-differ', 'error', 'https://github.com/open-mmlab/mmdetection3d/tree/main/projects/BEVFusion')
def check_channels(case: Case) -> Iterator[Problem]:
    """What a part of BEVFusion gives is what the next one takes; what either leaves to its default is not compared."""
    model = mapping(case.cfg.get('model'))
    if not is_ours(model, 'BEVFusion'):
        return
    for (giver, out), (taker, key, place) in CHAIN:
        given, taken = _channels(model, giver, out), mapping(model.get(taker)).get(key)
        if giver == 'pts_neck' and isinstance(given, list):
            given = sum(given)  # its levels are put side by side
        if place is not None:
            taken = taken[place] if isinstance(taken, (list, tuple)) and len(taken) > place else None
        taken = list(taken) if isinstance(taken, (list, tuple)) else taken
        if given is None or taken is None or given == taken:
            continue
        where = f'model.{taker}.{key}'
        new: Any = given if place is None else [given, *model[taker][key][1:]]
        yield Problem(
            f'model.{giver} gives {given} channels (out_channels), but {where}{"" if place is None else f"[{place}]"} is {taken}',
            f'set {where} to {new}, or change model.{giver}.{out}',
            {where: new},
        )


def _channels(model: dict[str, Any], giver: str, out: str) -> int | list[int] | None:
    """``out_channels`` as written, if it is a whole number or a list of them; None for another network than those whose they surely are."""
    part = mapping(model.get(giver))
    if giver.startswith('pts_') and short_name(part) not in ('SECOND', 'SECONDFPN'):
        return None
    value = part.get(out)
    if isinstance(value, (list, tuple)):
        return list(value) if all(count(each) for each in value) else None
    return count(value)
