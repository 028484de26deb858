"""A 32-beam spinning lidar: one revolution as nuScenes stores it, and which solid every point came from.

Letters: A azimuth steps, P points, M solids. A revolution is taken at one instant, which is what nuScenes'
motion compensation aims at. Frame: lidar (x right, y ahead, z up), metres.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bevfusion_plugin.synthetic_nuscenes.catalog import CLASSES
from bevfusion_plugin.synthetic_nuscenes.raycast import View, box_entry, ground_entry
from bevfusion_plugin.synthetic_nuscenes.world import World

NUM_BEAMS = 32
GROUND = -1
MAX_RANGE = 80.0

# HDL-32E data sheet: -30.67 to +10.67 degrees, 2 cm.
_ELEVATIONS = np.radians(np.linspace(-30.67, 10.67, NUM_BEAMS))
_RANGE_NOISE = 0.02
# Annotators draw boxes around the points: an object's surface lies this far inside its box, so that noise,
# cut at the same distance, leaves its points inside.
SURFACE_INSET = 0.04
_DROPOUT = 0.04
_DROPOUT_AT_MAX_RANGE = 0.4
_GROUND_REFLECTIVITY = 0.12
_CLUTTER_REFLECTIVITY = 0.3


@dataclass(frozen=True)
class Scan:
    """One revolution.

    Attributes:
        points: (P, 5) float32: x, y, z in the lidar frame, intensity 0 to 255, ring 0 (lowest) to 31.
        source: (P,) index of the solid a point came from, ``GROUND`` for the ground.
    """

    points: np.ndarray
    source: np.ndarray


def scan(world: World, view: View, random: np.random.Generator, azimuth_steps: int) -> Scan:
    """One revolution in ``view``: nearest surfaces only, with range noise, drop-out, intensity and ring."""
    phase = random.uniform(0, 2 * np.pi / azimuth_steps)
    directions = _directions(phase + np.arange(azimuth_steps) * (2 * np.pi / azimuth_steps))  # (3, A, 32)
    distance, source = _first_hits(world, view, directions, phase)
    noise = np.clip(random.normal(0, _RANGE_NOISE, distance.shape), -SURFACE_INSET, SURFACE_INSET)
    chance = _DROPOUT + (_DROPOUT_AT_MAX_RANGE - _DROPOUT) * (np.minimum(distance, MAX_RANGE) / MAX_RANGE) ** 2
    speckle = random.uniform(0.7, 1.3, distance.shape)
    seen = (distance < MAX_RANGE) & (random.random(distance.shape) >= chance)
    points = np.empty((int(seen.sum()), 5), dtype=np.float32)
    points[:, :3] = ((distance + noise)[seen] * directions[:, seen]).T
    points[:, 3] = _intensity(world, source[seen], distance[seen], speckle[seen])
    points[:, 4] = np.broadcast_to(np.arange(NUM_BEAMS), seen.shape)[seen]
    return Scan(points, source[seen])


def _directions(azimuth: np.ndarray) -> np.ndarray:
    cos_elevation = np.cos(_ELEVATIONS)
    return np.stack(
        [
            np.cos(azimuth)[:, None] * cos_elevation,
            np.sin(azimuth)[:, None] * cos_elevation,
            np.broadcast_to(np.sin(_ELEVATIONS), (len(azimuth), NUM_BEAMS)),
        ]
    )


def _first_hits(world: World, view: View, directions: np.ndarray, phase: float) -> tuple[np.ndarray, np.ndarray]:
    """(A, 32) distance to the nearest surface along each ray and the solid it belongs to."""
    distance = ground_entry(directions, view)
    source = np.full(distance.shape, GROUND)
    for index in range(len(view.centers)):
        columns = _columns(view, index, directions.shape[1], phase)
        inset = SURFACE_INSET if index < world.num_objects else 0.0
        entry = box_entry(directions[:, columns], view.centers[index], view.axes[index], view.half_sizes[index] - inset)
        nearer = entry < distance[columns]
        distance[columns] = np.where(nearer, entry, distance[columns])
        source[columns] = np.where(nearer, index, source[columns])
    return distance, source


def _columns(view: View, index: int, azimuth_steps: int, phase: float) -> np.ndarray:
    """Azimuth indices that can meet a solid beside the lidar (none is ever above or below it)."""
    corners = view.corners(index)
    middle = np.arctan2(view.centers[index, 1], view.centers[index, 0])
    turn = np.arctan2(corners[:, 1], corners[:, 0]) - middle
    turn = (turn + np.pi) % (2 * np.pi) - np.pi
    step = 2 * np.pi / azimuth_steps
    first = int(np.floor((middle + turn.min() - phase) / step))
    last = int(np.ceil((middle + turn.max() - phase) / step))
    return np.arange(first, last + 1) % azimuth_steps


def _intensity(world: World, source: np.ndarray, distance: np.ndarray, speckle: np.ndarray) -> np.ndarray:
    """Whole numbers 0 to 255: reflectivity, falling with distance, speckled."""
    reflectivity = np.full(len(world.sizes) + 1, _CLUTTER_REFLECTIVITY)
    reflectivity[: world.num_objects] = [CLASSES[label].body.reflectivity for label in world.labels]
    reflectivity[GROUND] = _GROUND_REFLECTIVITY  # the last entry: -1 indexes it
    return np.clip(np.round(255 * reflectivity[source] * np.exp(-distance / 40) * speckle), 0, 255)


def points_per_object(points: np.ndarray, world: World, view: View) -> np.ndarray:
    """(K,) number of points (P, 5) inside each object's box: nuScenes' ``num_lidar_pts``."""
    x, y, z = points[:, :3].T.astype(np.float64)
    counts = np.zeros(world.num_objects, dtype=int)
    for index in range(world.num_objects):
        center, reach = view.centers[index], np.linalg.norm(view.half_sizes[index])
        near = np.flatnonzero((np.abs(x - center[0]) <= reach) & (np.abs(y - center[1]) <= reach))
        offset = np.stack([x[near], y[near], z[near]], axis=1) - center
        inside = np.abs(offset @ view.axes[index]) <= view.half_sizes[index]
        counts[index] = inside.all(axis=1).sum()
    return counts
