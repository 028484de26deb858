"""Point files: rows of float32 features, x, y, z first, in the lidar frame, metres."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.fileio import get

from bevfusion_plugin.datasets.checks.fault import CHECK_PLACE, COPY_AGAIN, Fault, unread

FLOAT = 4  # bytes
FAR = 1e5  # metres: beyond any lidar; numbers of another type come to more when they are read as float32
PART = 0.6  # share of the points that the same lidar recorded before and after, within half a second; half a file has 0.5
LEAST_OTHERS = 2  # point files that tell what is usual


def points_fault(
    info: Mapping[str, Any], sweeps: bool, point_cloud_range: Sequence[float] | None, backend_args: dict | None
) -> Fault | None:
    """The first point file of a sample that cannot be used; None if all can.

    Args:
        info: A sample as mmdet3d's data sets give it (format 2), paths whole.
        sweeps: Whether its sweeps are used, too.
        point_cloud_range: (x, y, z, x, y, z) of which the key frame must have a point, metres; None: not asked.
        backend_args: Storage backend of ``mmengine.fileio.get``.
    """
    features = info['lidar_points']['num_pts_feats']
    paths = [info['lidar_points']['lidar_path']]
    paths += [sweep['lidar_points']['lidar_path'] for sweep in info.get('lidar_sweeps') or [] if sweeps]
    counts = []
    for path in paths:
        points, fault = read_points(path, features, backend_args)
        fault = fault or point_content_fault(path, points, point_cloud_range if path == paths[0] else None)
        if fault:
            return fault
        counts.append(len(points))
    return part_fault(paths, counts)


def read_points(path: str, features: int, backend_args: dict | None) -> tuple[np.ndarray, Fault | None]:
    """The points (P, features) of a file, or why there are none."""
    nothing = np.empty((0, features), dtype=np.float32)
    try:
        if backend_args is None and '://' not in str(path):
            with open(path, 'rb') as file:
                content = np.fromfile(file, dtype=np.uint8)
        else:
            content = np.frombuffer(get(path, backend_args=backend_args), dtype=np.uint8)
    except OSError as error:
        return nothing, Fault(path, unread(error), CHECK_PLACE)
    row = FLOAT * features
    if len(content) == 0:
        return nothing, Fault(path, 'is empty', COPY_AGAIN)
    if len(content) % row:
        return nothing, Fault(
            path,
            f'has {len(content):,} bytes, which is no multiple of {row} (num_pts_feats {features} x '
            f'{FLOAT}): it was cut off, or has another number of features',
            COPY_AGAIN,
        )
    return content.view(np.float32).reshape(-1, features), None


def point_content_fault(path: str, points: np.ndarray, point_cloud_range: Sequence[float] | None) -> Fault | None:
    """Why the points (P, C), P >= 1, cannot have been recorded; None if they can."""
    flat = points.reshape(-1)
    with np.errstate(all='ignore'):
        suspicious = not np.dot(flat, flat) <= FAR**2  # the fastest question that NaN, inf and a number beyond FAR answer with yes
    if suspicious:
        finite = np.isfinite(points).all(1)
        if not finite.all():
            return Fault(path, f'has {np.count_nonzero(~finite):,} points of {len(points):,} that are not finite (NaN or inf)', COPY_AGAIN)
        far = np.abs(points[:, :3]).max()
        if far > FAR:
            return Fault(path, f'has points {far:.3g} m away: it was damaged, or is not of float32', COPY_AGAIN)
    if len(points) > 1 and points[0, 0] == points[-1, 0] and (points == points[0]).all():
        return Fault(path, f'has {len(points):,} points, all at {points[0, :3].tolist()}', COPY_AGAIN)
    if point_cloud_range is not None and not _any_inside(points, point_cloud_range):
        return Fault(
            path,
            f'has no point within point_cloud_range {list(point_cloud_range)}: its {len(points):,} points span '
            f'{points[:, :3].min(0).round(1).tolist()} to {points[:, :3].max(0).round(1).tolist()}',
            'check the unit (metres) and frame (lidar) of the file, and the range',
        )
    return None


def _any_inside(points: np.ndarray, point_cloud_range: Sequence[float]) -> bool:
    low, high = np.asarray(point_cloud_range, dtype=np.float32).reshape(2, 3)
    some = points[:: max(1, len(points) // 1000), :3]  # one is enough: all are asked only where none of these is inside
    return bool(((some > low) & (some < high)).all(1).any() or ((points[:, :3] > low) & (points[:, :3] < high)).all(1).any())


def part_fault(paths: Sequence[str], counts: Sequence[int]) -> Fault | None:
    """A file that holds far fewer points than the others of its sample; None if there is none, or too few to tell."""
    for path, count in zip(paths, counts):
        others = [other for name, other in zip(paths, counts) if name != path]
        usual = np.median(others) if len(others) >= LEAST_OTHERS else 0
        if count < PART * usual:
            return Fault(
                path,
                f'has {count:,} points where the other {len(others)} files of half a second have {usual:,.0f}: a part of it is missing',
                COPY_AGAIN,
            )
    return None
