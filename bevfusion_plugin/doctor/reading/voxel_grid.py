"""The voxel grid that a config describes in several places, and what follows from it.

Letters: X x Y x Z voxels. mmdet3d's sparse encoders take the grid as (Z, Y, X), BEVFusion's as (X, Y, Z).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mmengine.config import Config

from bevfusion_plugin.doctor.reading.config import count, mapping, number, short_name
from bevfusion_plugin.ops.map_size import cells_after_strides, strided_cells

XYZ_ENCODERS = ('BEVFusionSparseEncoder',)
ZYX_ENCODERS = ('SparseEncoder',)


@dataclass(frozen=True)
class VoxelGrid:
    """What the voxelizer makes of the scene.

    Attributes:
        voxel_size: Edge lengths (x, y, z), metres.
        scene: (x, y, z) of the lower and then of the upper corner, metres.
    """

    voxel_size: tuple[float, ...]
    scene: tuple[float, ...]

    @property
    def cells(self) -> tuple[int, int, int]:
        """X, Y, Z, rounded as the voxelizers do."""
        x, y, z = (round((self.scene[axis + 3] - self.scene[axis]) / self.voxel_size[axis]) for axis in range(3))
        return x, y, z


def numbers(value: Any, length: int) -> tuple[float, ...] | None:
    """``value`` as a tuple if it is a list of so many finite numbers, else None."""
    if not isinstance(value, (list, tuple)) or len(value) != length or any(number(each) is None for each in value):
        return None
    return tuple(value) if all(abs(each) < float('inf') for each in value) else None


def voxel_grid(cfg: Config) -> VoxelGrid | None:
    """The grid of the model's voxelizer; None if it has none, or one of another shape (dynamic, cylindrical)."""
    preprocessor = mapping(mapping(cfg.get('model')).get('data_preprocessor'))
    settings = mapping(preprocessor.get('voxelize_cfg')) or mapping(preprocessor.get('voxel_layer'))
    size, scene = numbers(settings.get('voxel_size'), 3), numbers(settings.get('point_cloud_range'), 6)
    if size is None or scene is None or min(size) <= 0 or any(scene[axis] >= scene[axis + 3] for axis in range(3)):
        return None
    return VoxelGrid(size, scene)


def sparse_encoder(cfg: Config) -> tuple[str, dict[str, Any]] | None:
    """Place and config of the sparse encoder, if it is one whose order of axes is known."""
    for name in ('pts_middle_encoder', 'middle_encoder'):
        encoder = mapping(mapping(cfg.get('model')).get(name))
        if short_name(encoder) in XYZ_ENCODERS + ZYX_ENCODERS:
            return f'model.{name}', encoder
    return None


def expected_shape(grid: VoxelGrid, encoder: dict[str, Any]) -> list[int]:
    """``sparse_shape`` for ``encoder``: the grid with one cell more in z, which lets it be halved three times."""
    x, y, z = grid.cells
    return [x, y, z + 1] if short_name(encoder) in XYZ_ENCODERS else [z + 1, y, x]


def fits(shape: tuple[float, ...], grid: VoxelGrid, encoder: dict[str, Any]) -> bool:
    """Whether the encoder's grid holds all voxels: the same in x and y, at least as high, and not twice as high."""
    x, y, z = shape if short_name(encoder) in XYZ_ENCODERS else shape[::-1]
    return (x, y) == grid.cells[:2] and grid.cells[2] <= z < 2 * grid.cells[2] + 2


def encoder_stride(encoder: dict[str, Any]) -> int | None:
    """Voxels a cell of the encoder's map covers along x: a factor 2 for each stage but one; None if the stages are unknown."""
    stages = encoder.get('encoder_channels')
    return 2 ** (len(stages) - 1) if isinstance(stages, (list, tuple)) and stages else None


def encoder_cells(encoder: dict[str, Any]) -> list[int] | None:
    """Cells that ``sparse_shape`` becomes along each of its axes, in its order; None if the stages are not written as they should be.

    Source: the strided convolutions (kernel 3, stride 2) and the last one (kernel 3, stride 2, no padding, along z alone) of
    mmdet3d's ``SparseEncoder`` and BEVFusion's.
    """
    shape = numbers(encoder.get('sparse_shape'), 3)
    paddings = encoder.get('encoder_paddings', ((1,), (1, 1, 1), (1, 1, 1), ((0, 1, 1), 1, 1)))
    if shape is None or not isinstance(paddings, (list, tuple)) or not paddings:
        return None
    if not all(isinstance(stage, (list, tuple)) and stage for stage in paddings):
        return None
    strided = [stage[-1] for stage in paddings[:-1]] if encoder.get('block_type') == 'basicblock' else [s[0] for s in paddings[1:]]
    cells = [int(each) for each in shape]
    for padding in strided:
        each = padding if isinstance(padding, (list, tuple)) else [padding] * 3
        if numbers(each, 3) is None:
            return None
        cells = [strided_cells(*pair) for pair in ((n, 3, 2, int(pad)) for n, pad in zip(cells, each))]
    z = 2 if short_name(encoder) in XYZ_ENCODERS else 0
    cells[z] = strided_cells(cells[z], 3, 2, 0)
    return cells


def neck_levels(cfg: Config, cells: int) -> list[int] | None:
    """Cells along one axis that each level of SECOND and SECONDFPN gives to be put side by side; None for other networks.

    Args:
        cfg: The whole config.
        cells: Cells of the map that SECOND gets.
    """
    model = mapping(cfg.get('model'))
    backbone, neck = (mapping(model.get(f'pts_{name}') or model.get(name)) for name in ('backbone', 'neck'))
    steps, ups = backbone.get('layer_strides', [2, 2, 2]), neck.get('upsample_strides', [1, 2, 4])
    if (short_name(backbone), short_name(neck)) != ('SECOND', 'SECONDFPN') or any(
        not isinstance(each, (list, tuple)) or not all(count(n) for n in each) for each in (steps, ups)
    ):
        return None
    levels = []
    for step, up in zip(steps, ups):
        cells = cells_after_strides(cells, step)
        levels.append(cells * up)
    return levels


def head_stride(cfg: Config) -> int | float | None:
    """Voxels a cell of the head's map covers along x, with SECOND and SECONDFPN in between; None for other networks."""
    found, model = sparse_encoder(cfg), mapping(cfg.get('model'))
    backbone, neck = (mapping(model.get(f'pts_{name}') or model.get(name)) for name in ('backbone', 'neck'))
    if found is None or short_name(backbone) != 'SECOND' or short_name(neck) != 'SECONDFPN':
        return None
    steps = backbone.get('layer_strides', [2, 2, 2])
    ups = neck.get('upsample_strides', [1, 2, 4])
    stride = encoder_stride(found[1])
    if stride is None or not isinstance(steps, (list, tuple)) or not isinstance(ups, (list, tuple)):
        return None
    if not steps or not ups or not number(steps[0]) or not number(ups[0]):
        return None
    factor = stride * steps[0] / ups[0]
    return int(factor) if factor == int(factor) else factor
