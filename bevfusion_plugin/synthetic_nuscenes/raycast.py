"""Rays against boxes in a sensor's own frame; the lidar and the cameras see the world through the same test."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from bevfusion_plugin.synthetic_nuscenes.rig import yaw_matrix
from bevfusion_plugin.synthetic_nuscenes.world import World

_CORNER_SIGNS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], dtype=float)


@dataclass(frozen=True)
class View:
    """The world at one moment as one sensor sees it.

    Attributes:
        rotation: (3, 3) sensor2global.
        translation: (3,) sensor2global.
        centers: (M, 3) gravity centres of the solids in the sensor frame.
        axes: (M, 3, 3) box2sensor rotations; columns are the box's length, width and height directions.
        half_sizes: (M, 3).
    """

    rotation: np.ndarray
    translation: np.ndarray
    centers: np.ndarray
    axes: np.ndarray
    half_sizes: np.ndarray

    def corners(self, index: int) -> np.ndarray:
        """(8, 3) corners of solid ``index`` in the sensor frame."""
        return self.centers[index] + (_CORNER_SIGNS * self.half_sizes[index]) @ self.axes[index].T


def view_from(world: World, time: float, rotation: np.ndarray, translation: np.ndarray) -> View:
    """The solids of ``world`` at ``time`` in the frame of a sensor with that pose sensor2global."""
    centers = (world.centers(time) - translation) @ rotation
    axes = np.stack([rotation.T @ yaw_matrix(yaw) for yaw in world.yaws])
    return View(rotation, translation, centers, axes, world.sizes / 2)


def box_entry(directions: np.ndarray, center: np.ndarray, axes: np.ndarray, half_size: np.ndarray) -> np.ndarray:
    """(...) multiple of each direction at which its ray from the origin enters the box; inf where it misses.

    Args:
        directions: (3, ...) ray directions, of any length.
        center: (3,) centre of the box, in the frame of the rays.
        axes: (3, 3) box2ray-frame rotation.
        half_size: (3,).

    Source: the slab test (Kay and Kajiya, 1986).
    """
    entries, exits = [], []
    for axis, half in zip(axes.T, half_size):
        # Written out: the same bits whatever BLAS does with its threads.
        along = axis[0] * directions[0] + axis[1] * directions[1] + axis[2] * directions[2]
        along[along == 0] = 1e-12
        to_center = (axis[0] * center[0] + axis[1] * center[1] + axis[2] * center[2]) / along
        to_face = half / np.abs(along)
        entries.append(to_center - to_face)
        exits.append(to_center + to_face)
    entry, exit_ = functools.reduce(np.maximum, entries), functools.reduce(np.minimum, exits)
    return np.where((entry <= exit_) & (entry > 0), entry, np.inf)


def ground_entry(directions: np.ndarray, view: View) -> np.ndarray:
    """(...) multiple of each direction (3, ...) at which its ray meets the ground; inf above the horizon."""
    up = view.rotation[2]
    fall = -(up[0] * directions[0] + up[1] * directions[1] + up[2] * directions[2])
    with np.errstate(divide='ignore'):
        return np.where(fall > 0, view.translation[2] / fall, np.inf)
