"""Matrices of the sensors and of the vehicle's place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from bevfusion_plugin.datasets.checks.fault import MAKE_AGAIN, Fault

RIG = 1e3  # metres: no two sensors of a rig, nor two places of a vehicle within half a second, are farther apart
EARTH = 1e8  # metres: a place on a map, in any projection
TURN_TOLERANCE = 1e-2  # of R'R against the unit matrix; calibrations are published with three digits and more
NOTHING = 1e-12  # a determinant below is that of a singular matrix


def calibration_fault(info: Mapping[str, Any], cameras: Mapping[str, Mapping[str, Any]], sweeps: bool) -> Fault | None:
    """The first matrix of a sample that cannot be what its name says; None if all can.

    Args:
        info: A sample as mmdet3d's data sets give it (format 2).
        cameras: Those of ``images`` that are used, with all their fields.
        sweeps: Whether its sweeps are used.
    """
    rigid = list(_rigid_matrices(info, cameras, sweeps))
    try:
        matrices = np.array([value for _, value, _ in rigid], dtype=np.float64)
        if not rigid or rigid_matrices_fit(matrices, np.array([limit for _, _, limit in rigid])).all():
            rigid = []  # all at once, since most samples are in order
    except (ValueError, TypeError):
        pass  # one of them is no (4, 4) matrix: it is found below
    for name, value, limit in rigid:
        reason = rigid_fault(value, limit)
        if reason:
            return Fault(f'{name} of the info file', reason, MAKE_AGAIN)
    for name, camera in cameras.items():
        for key, judge in (('cam2img', intrinsic_fault), ('lidar2img', projection_fault)):
            reason = judge(camera[key]) if camera.get(key) is not None else None
            if reason:
                return Fault(f'images.{name}.{key} of the info file', reason, MAKE_AGAIN)
    return None


def _rigid_matrices(info: Mapping[str, Any], cameras: Mapping[str, Mapping[str, Any]], sweeps: bool) -> Iterator[tuple[str, Any, float]]:
    """(field, matrix, metres that it may shift by) of every rigid transform of the sample."""
    for name, camera in cameras.items():
        yield f'images.{name}.lidar2cam', camera['lidar2cam'], RIG
    if info.get('ego2global') is not None:
        yield 'ego2global', info['ego2global'], EARTH
    if info.get('lidar_points', {}).get('lidar2ego') is not None:
        yield 'lidar_points.lidar2ego', info['lidar_points']['lidar2ego'], RIG
    for index, sweep in enumerate(info.get('lidar_sweeps') or [] if sweeps else []):
        yield f'lidar_sweeps[{index}].lidar_points.lidar2sensor', sweep['lidar_points']['lidar2sensor'], RIG


def rigid_matrices_fit(matrices: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """(M,) bool: which of ``matrices`` (M, 4, 4) are a rotation with a shift of at most ``limits`` (M,) metres."""
    if matrices.shape[1:] != (4, 4):
        raise ValueError(f'rigid transforms have shape (4, 4), got {matrices.shape[1:]}')
    turns = matrices[:, :3, :3]
    with np.errstate(all='ignore'):
        squares = turns.transpose(0, 2, 1) @ turns
        fits = np.abs(squares - np.eye(3)).max((1, 2)) <= TURN_TOLERANCE  # a NaN fits nowhere
        handed = np.einsum('mi,mi->m', np.cross(turns[:, 0], turns[:, 1]), turns[:, 2]) > 0
    shifts = np.abs(matrices[:, :3, 3]).max(1) <= limits
    return fits & handed & shifts & (matrices[:, 3] == (0, 0, 0, 1)).all(1)


def rigid_fault(matrix: Any, limit: float) -> str | None:
    """Why ``matrix`` is no rotation with a shift of at most ``limit`` metres; None if it is one."""
    array = as_matrix(matrix)
    if array is None or array.shape != (4, 4):
        return f'must be a (4, 4) matrix of numbers, got {_shape(array, matrix)}'
    if not np.isfinite(array).all():
        return f'holds numbers that are not finite: {array[:3].round(3).tolist()}'
    if (array[3] != (0, 0, 0, 1)).any():
        return f'must end with the row [0, 0, 0, 1], got {array[3].tolist()}'
    if np.abs(array[:3, 3]).max() > limit:
        return f'shifts by {np.abs(array[:3, 3]).max():.3g} m, and {limit:.3g} is the most that can be'
    if not rigid_matrices_fit(array[None], np.array([limit]))[0]:
        return f'is not rigid: its rotation has the determinant {np.linalg.det(array[:3, :3]):.3g} and must be orthonormal'
    return None


def intrinsic_fault(matrix: Any) -> str | None:
    """Why ``matrix`` is no camera matrix ``cam2img`` (3x3, 3x4 or 4x4, pixels); None if it is one."""
    array = as_matrix(matrix)
    if array is None or array.ndim != 2 or array.shape not in ((3, 3), (3, 4), (4, 4)):
        return f'must be a (3, 3), (3, 4) or (4, 4) matrix of numbers, got {_shape(array, matrix)}'
    if not np.isfinite(array).all():
        return f'holds numbers that are not finite: {array[:3, :3].round(3).tolist()}'
    if array[0, 0] <= 0 or array[1, 1] <= 0:
        return f'has the focal lengths {array[0, 0]:g} and {array[1, 1]:g} pixels; both must be positive'
    if (array[2, :3] != (0, 0, 1)).any() or array[1, 0] != 0:
        return f'must be [[fx, s, cx], [0, fy, cy], [0, 0, 1]], got {array[:3, :3].round(3).tolist()}'
    return None


def projection_fault(matrix: Any) -> str | None:
    """Why ``matrix`` is no ``lidar2img`` (3x4 or 4x4); None if it is one."""
    array = as_matrix(matrix)
    if array is None or array.ndim != 2 or array.shape not in ((3, 4), (4, 4)):
        return f'must be a (3, 4) or (4, 4) matrix of numbers, got {_shape(array, matrix)}'
    if not np.isfinite(array).all():
        return f'holds numbers that are not finite: {array[:3].round(3).tolist()}'
    if abs(np.linalg.det(array[:3, :3])) < NOTHING:
        return f'is singular: {array[:3, :3].round(3).tolist()}'
    return None


def as_matrix(value: Any) -> np.ndarray | None:
    """``value`` as a float64 array; None if it is none."""
    try:
        return np.asarray(value, dtype=np.float64)
    except (ValueError, TypeError):
        return None


def _shape(array: np.ndarray | None, value: Any) -> str:
    return f'the shape {array.shape}' if array is not None else f'{type(value).__name__}'
