"""Entries of info files (mmdet3d's format 2): fields, labels, category names."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from bevfusion_plugin.datasets.checks.fault import MAKE_AGAIN, Fault

CAMERA_FIELDS = ('img_path', 'lidar2cam', 'cam2img')
BOX = 7  # x, y, z, l, w, h, yaw


def cameras_with_picture(images: Mapping[str, Any]) -> dict[str, Any]:
    """The cameras of ``images`` that have a picture; KITTI's infos also list cameras without one, and a matrix beside them."""
    return {name: camera for name, camera in images.items() if isinstance(camera, Mapping) and camera.get('img_path')}


def sensor_fault(info: Mapping[str, Any], uses_points: bool, sweeps: bool, cameras: Sequence[str] | None) -> Fault | None:
    """The first field of the sensors that is missing or of another kind; None if all are there.

    Args:
        info: An entry.
        uses_points: Whether the point file is used.
        sweeps: Whether the sweeps are used.
        cameras: Names of the cameras that are used; None: all with a picture. Empty: no camera is used.
    """
    wanted: list[tuple[str, Any, Sequence[str]]] = []  # (place, what is there, the fields it needs)
    if uses_points:
        wanted.append(('lidar_points', info.get('lidar_points'), ('lidar_path', 'num_pts_feats')))
    for index, sweep in enumerate((info.get('lidar_sweeps') or []) if uses_points and sweeps else []):
        wanted.append((f'lidar_sweeps[{index}]', sweep, ('lidar_points', 'timestamp')))
        if isinstance(sweep, Mapping) and 'lidar_points' in sweep:
            wanted.append((f'lidar_sweeps[{index}].lidar_points', sweep['lidar_points'], ('lidar_path', 'lidar2sensor')))
    if uses_points and sweeps and info.get('lidar_sweeps'):
        wanted.append(('the entry', info, ('timestamp',)))
    if cameras is None or cameras:
        fault, found = _used_cameras(info, cameras)
        if fault:
            return fault
        wanted += [(f'images.{name}', camera, CAMERA_FIELDS) for name, camera in found.items()]
    for where, holder, fields in wanted:
        fault = _missing(where, holder, fields)
        if fault:
            return fault
    features = info['lidar_points']['num_pts_feats'] if uses_points else BOX
    if not isinstance(features, Integral) or features < 3:
        return Fault('lidar_points.num_pts_feats of the info file', f'must be a whole number >= 3, got {features!r}', MAKE_AGAIN)
    return None


def _used_cameras(info: Mapping[str, Any], cameras: Sequence[str] | None) -> tuple[Fault | None, Mapping[str, Any]]:
    images = info.get('images')
    if not isinstance(images, Mapping):
        return Fault('images of the info file', f'must be a dict of cameras, got {type(images).__name__}', MAKE_AGAIN), {}
    pictured = cameras_with_picture(images)
    absent = [name for name in cameras or [] if name not in pictured]
    if absent or not pictured:
        return Fault(
            'images of the info file',
            f'have no picture (img_path) of {", ".join(absent) or "any camera"}; cameras with one: {", ".join(pictured) or "none"}',
            f'{MAKE_AGAIN}, or name the cameras to use with cameras=[...]',
        ), {}
    return None, pictured if cameras is None else {name: pictured[name] for name in cameras}


def _missing(where: str, holder: Any, fields: Sequence[str]) -> Fault | None:
    if holder is None:
        return Fault(f'{where} of the info file', 'is missing', MAKE_AGAIN)
    if not isinstance(holder, Mapping):
        return Fault(f'{where} of the info file', f'must be a dict, got {type(holder).__name__}', MAKE_AGAIN)
    absent = [field for field in fields if holder.get(field) is None]
    there = ', '.join(map(str, holder))
    return Fault(f'{where} of the info file', f'lacks {", ".join(absent)}; it has {there}', MAKE_AGAIN) if absent else None


def instances_fault(info: Mapping[str, Any], labels: Collection[int], fields: Sequence[str] = ()) -> Fault | None:
    """The first box entry that cannot be read; None if all can.

    Args:
        info: An entry.
        labels: Labels that the data set knows.
        fields: What every box needs beside ``bbox_3d`` and ``bbox_label_3d``.
    """
    instances = info.get('instances')
    if not isinstance(instances, Sequence) or isinstance(instances, str):
        found = 'are missing' if instances is None else f'must be a list, got {type(instances).__name__}'
        return Fault('instances of the info file', found, f'{MAKE_AGAIN}; a frame without boxes has an empty list')
    for index, box in enumerate(instances):
        where = f'instances[{index}]'
        fault = _missing(where, box, ('bbox_3d', 'bbox_label_3d', *fields))
        if fault:
            return fault
        if not _numbers(box['bbox_3d'], BOX):
            return Fault(
                f'{where}.bbox_3d of the info file', f'must be {BOX} numbers (x, y, z, l, w, h, yaw), got {box["bbox_3d"]!r}', MAKE_AGAIN
            )
        if 'velocity' in fields and not _numbers(box['velocity'], 2):
            return Fault(f'{where}.velocity of the info file', f'must be 2 numbers, got {box["velocity"]!r}', MAKE_AGAIN)
        label = box['bbox_label_3d']
        if label not in labels:
            return Fault(
                f'{where}.bbox_label_3d of the info file',
                f'is {label!r}, and the data set knows the labels {min(labels)} to {max(labels)}',
                f'{MAKE_AGAIN}, or name its classes in METAINFO of the data set',
            )
        if set(box) != set(instances[0]):
            differing = ', '.join(sorted(map(str, set(box) ^ set(instances[0]))))
            return Fault(f'{where} of the info file', f'and instances[0] differ in the fields {differing}', MAKE_AGAIN)
    return None


def _numbers(value: Any, count: int) -> bool:
    try:
        return len(value) == count and all(isinstance(each, Real) for each in value)
    except TypeError:
        return False


def categories_fault(categories: Mapping[str, int] | None, known: Sequence[str], trained: Sequence[str]) -> Fault | None:
    """Why the labels of an info file mean other classes than the data set takes them for; None if they mean the same.

    Args:
        categories: ``metainfo.categories`` of the info file, name -> label; None: it does not say.
        known: Classes of the data set's kind, in the order of their labels (``METAINFO['classes']``).
        trained: Those that are asked for (``metainfo.classes``).
    """
    if not isinstance(categories, Mapping):
        return None
    numbered = {name: label for name, label in categories.items() if label >= 0}
    unknown = [name for name in numbered if name not in known]
    absent = [name for name in trained if name not in numbered]
    mend = (
        'make the info file again with the code in use, or give the data set the METAINFO of the one that made it (Custom3DDataset: '
        'all names in the order of their labels as categories)'
    )
    if unknown or absent:
        parts = [f'does not know {", ".join(absent)}'] if absent else []
        parts += [f'knows {", ".join(unknown)}, which the data set does not'] if unknown else []
        return Fault('metainfo.categories of the info file', ' and '.join(parts), mend)
    place = {name: index for index, name in enumerate(known)}
    moved = [f'{name} {label} (data set: {place[name]})' for name, label in numbered.items() if place[name] != label]
    if moved:
        return Fault('metainfo.categories of the info file', f'number the classes otherwise than the data set: {", ".join(moved)}', mend)
    return None
