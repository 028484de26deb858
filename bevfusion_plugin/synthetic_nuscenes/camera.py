"""Camera pictures of a scene: what each pixel shows, and its colour.

Letters: H x W pixels, M solids, K of them objects. Pixel (u, v) looks along K^-1 (u, v, 1); camera frame x
right, y down, z ahead. All of a keyframe's pictures are taken at the moment of its lidar revolution, so that
boxes and pictures agree for whatever moves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bevfusion_plugin.synthetic_nuscenes.catalog import CLASSES
from bevfusion_plugin.synthetic_nuscenes.raycast import View, box_entry, ground_entry
from bevfusion_plugin.synthetic_nuscenes.rig import Sensor
from bevfusion_plugin.synthetic_nuscenes.world import ROAD_HALF_WIDTH, World

NOTHING = -1  # the ground or the sky
_NEAR = 0.2
_SKY = np.array([150.0, 180.0, 215.0])
_HAZE_RANGE = 200.0
_AMBIENT = 0.55
_SHADOW = 0.55
_PIXEL_NOISE = 3.0
_SHADOW_CELL = 0.25
_SHADOW_REACH = 70.0


@dataclass(frozen=True)
class Picture:
    """One camera picture.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        owner: (H, W) index of the solid a pixel shows, ``NOTHING`` for ground and sky.
        visible: (K,) pixels that show each object.
        unoccluded: (K,) pixels that would show it if nothing stood before it.
    """

    image: np.ndarray
    owner: np.ndarray
    visible: np.ndarray
    unoccluded: np.ndarray


def render(world: World, view: View, camera: Sensor, size: tuple[int, int], shadows: ShadowMap, random: np.random.Generator) -> Picture:
    """The picture of ``size`` (W, H) that ``camera`` takes in ``view``.

    Raises:
        ValueError: If the sensor is no camera.
    """
    if camera.intrinsic is None:
        raise ValueError(f'{camera.channel} has no intrinsic matrix; pictures are taken by cameras')
    directions = pixel_directions(camera.intrinsic, size)  # (3, H, W)
    depth, owner, unoccluded = _nearest_solids(world, view, camera.intrinsic, directions)
    colour = _background(world, view, directions, depth, owner, shadows)
    for index in np.unique(owner[owner != NOTHING]):
        rows, columns = np.nonzero(owner == index)
        hits = directions[:, rows, columns] * depth[rows, columns]  # (3, pixels)
        colour[rows, columns] = _solid_colour(world, view, index, hits)
    haze = np.exp(-np.minimum(depth, 1e4) / _HAZE_RANGE)[..., None]
    colour = colour * haze + _SKY.astype(np.float32) * (1 - haze)
    colour += _PIXEL_NOISE * random.standard_normal(colour.shape, dtype=np.float32)
    visible = np.bincount(owner[owner != NOTHING], minlength=len(world.sizes))[: world.num_objects]
    return Picture(np.clip(np.round(colour), 0, 255).astype(np.uint8), owner, visible, unoccluded)


def pixel_directions(intrinsic: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(3, H, W) float32 camera-frame ray of every pixel, with depth 1."""
    width, height = size
    u = (np.arange(width) - intrinsic[0, 2]) / intrinsic[0, 0]
    v = (np.arange(height) - intrinsic[1, 2]) / intrinsic[1, 1]
    return np.stack(np.broadcast_arrays(u, v[:, None], 1.0)).astype(np.float32)


def pixel_window(view: View, index: int, intrinsic: np.ndarray, size: tuple[int, int]) -> tuple[slice, slice] | None:
    """Rows and columns that can show solid ``index``; None if it is out of the picture."""
    corners = view.corners(index)
    if corners[:, 2].max() <= _NEAR:
        return None
    width, height = size
    if corners[:, 2].min() <= _NEAR:  # it reaches beside the camera: its projection has no bounds
        return slice(0, height), slice(0, width)
    pixels = corners[:, :2] / corners[:, 2:] * np.diag(intrinsic)[:2] + intrinsic[:2, 2]
    low = np.maximum(np.floor(pixels.min(axis=0)), 0).astype(int)
    high = np.minimum(np.ceil(pixels.max(axis=0)) + 1, size).astype(int)
    if (low >= high).any():
        return None
    return slice(low[1], high[1]), slice(low[0], high[0])


def _nearest_solids(world: World, view: View, intrinsic: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(H, W) depth, (H, W) owner and (K,) pixels of each object taken alone."""
    depth = ground_entry(directions, view).astype(np.float32)
    owner = np.full(depth.shape, NOTHING)
    unoccluded = np.zeros(world.num_objects, dtype=int)
    for index in range(len(view.centers)):
        window = pixel_window(view, index, intrinsic, (depth.shape[1], depth.shape[0]))
        if window is None:
            continue
        axes, half_size = view.axes[index].astype(np.float32), view.half_sizes[index].astype(np.float32)
        entry = box_entry(directions[:, window[0], window[1]], view.centers[index].astype(np.float32), axes, half_size)
        if index < world.num_objects:
            unoccluded[index] = np.isfinite(entry).sum()
        nearer = entry < depth[window]
        depth[window][nearer] = entry[nearer]
        owner[window][nearer] = index
    return depth, owner, unoccluded


def _solid_colour(world: World, view: View, index: int, hits: np.ndarray) -> np.ndarray:
    """(pixels, 3) colour of solid ``index`` where rays meet it at (3, pixels): its stripes, lit by the sun."""
    local = (hits.T - view.centers[index]) @ view.axes[index]  # (pixels, 3) in the box frame
    if index < world.num_objects:
        paint = CLASSES[world.labels[index]].paint
        axis, period = np.array(paint.axis) / np.linalg.norm(paint.axis), paint.period
    else:
        axis, period = np.array([0.0, 0.0, 1.0]), 3.0
    along = (local + view.half_sizes[index]) @ axis / period + 0.25  # no stripe begins on the face it starts from
    second = along % 1.0 >= 0.5
    relative = local / view.half_sizes[index]
    face = np.abs(relative).argmax(axis=1)
    sides = np.sign(relative[np.arange(len(face)), face])
    sun = view.rotation.T @ world.sun @ view.axes[index]  # toward the sun, in the box frame
    light = _AMBIENT + (1 - _AMBIENT) * np.maximum(sides * sun[face], 0)
    return world.paints[index][second.astype(int)] * light[:, None]


def _background(world: World, view: View, directions: np.ndarray, depth: np.ndarray, owner: np.ndarray, shadows: ShadowMap) -> np.ndarray:
    """(H, W, 3) float32 sky, and ground with road, pavement, grass and the shadows of the solids."""
    colour = np.broadcast_to(_SKY.astype(np.float32), (*depth.shape, 3)).copy()
    ground = (owner == NOTHING) & np.isfinite(depth)
    hits = directions[:, ground] * depth[ground]
    x, y = (
        sum(np.float32(view.rotation[row, axis]) * hits[axis] for axis in range(3)) + np.float32(view.translation[row]) for row in (0, 1)
    )
    shade = np.where(shadows.at(x, y), np.float32(_SHADOW), np.float32(1.0))
    colour[ground] = ground_colour(world, x, y) * shade[:, None]
    return colour


def ground_colour(world: World, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(N, 3) float32 colour of the sunlit ground at global (N,) ``x`` and ``y``."""
    lateral = world.ego.lateral(x, y)
    kinds = np.array([[95, 95, 100], [225, 225, 225], [150, 145, 140], [95, 120, 70]], dtype=np.float32)
    kind = np.select(
        [lateral < 0.08, (lateral > 6.7) & (lateral < 6.85), lateral < ROAD_HALF_WIDTH, lateral < 11.0], [1, 1, 0, 2], default=3
    )
    cell = np.floor(x * 2) * 157.31 + np.floor(y * 2) * 113.97  # half-metre patches of slightly different grey
    grain = (cell % 17.0 - 8.0).astype(np.float32)
    return kinds[kind] + grain[:, None]


class ShadowMap:
    """The shadows that the solids of a world cast on the ground around the ego at one moment.

    Args:
        world: The scene.
        time: Seconds from its start.
        ego_position: (2,) middle of the map.
    """

    def __init__(self, world: World, time: float, ego_position: np.ndarray) -> None:
        self._origin = ego_position - _SHADOW_REACH
        cells = round(2 * _SHADOW_REACH / _SHADOW_CELL)
        self._dark = np.zeros((cells, cells), dtype=bool)
        centers = world.centers(time)
        slope = world.sun[:2] / world.sun[2]  # metres a shadow runs (away from the sun) per metre of height
        for center, size, yaw in zip(centers, world.sizes, world.yaws):
            self._cast(center, size, yaw, slope)

    def _cast(self, center: np.ndarray, size: np.ndarray, yaw: float, slope: np.ndarray) -> None:
        reach = np.hypot(size[0], size[1]) / 2
        ends = np.stack([center[:2], center[:2] - slope * size[2]])
        low = np.maximum(np.floor((ends.min(axis=0) - reach - self._origin) / _SHADOW_CELL).astype(int), 0)
        high = np.ceil((ends.max(axis=0) + reach - self._origin) / _SHADOW_CELL).astype(int)
        high = np.minimum(high, len(self._dark))
        if (low >= high).any():
            return
        x = (np.arange(low[0], high[0]) + 0.5) * _SHADOW_CELL + self._origin[0] - center[0]
        y = (np.arange(low[1], high[1]) + 0.5) * _SHADOW_CELL + self._origin[1] - center[1]
        cos, sin = np.cos(yaw), np.sin(yaw)
        toward_sun = np.array([cos * slope[0] + sin * slope[1], cos * slope[1] - sin * slope[0]])
        # From each ground cell look toward the sun: over which heights is the line of sight above the box's base?
        entry, exit_ = 0.0, size[2]
        for along, lean, half in (
            (cos * x[:, None] + sin * y, toward_sun[0], size[0] / 2),
            (cos * y - sin * x[:, None], toward_sun[1], size[1] / 2),
        ):
            lean = lean if abs(lean) > 1e-9 else 1e-9
            middle, width = -along / lean, half / abs(lean)
            entry, exit_ = np.maximum(entry, middle - width), np.minimum(exit_, middle + width)
        self._dark[low[0] : high[0], low[1] : high[1]] |= entry < exit_

    def at(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """(N,) whether the ground at global (N,) ``x`` and ``y`` lies in a shadow; False outside the map."""
        rows = np.floor((x - np.float32(self._origin[0])) / np.float32(_SHADOW_CELL)).astype(int)
        columns = np.floor((y - np.float32(self._origin[1])) / np.float32(_SHADOW_CELL)).astype(int)
        inside = (rows >= 0) & (rows < len(self._dark)) & (columns >= 0) & (columns < len(self._dark))
        dark = np.zeros(len(rows), dtype=bool)
        dark[inside] = self._dark[rows[inside], columns[inside]]
        return dark
