"""Whether the matrices of a sample bring lidar and cameras together, as a number: lidar points in a box belong into its box in the picture.

The points take the model's way, through the matrices that the sample carries. The box in the picture is the info file's: its 2D box where it
has some for this camera (``cam_instances``, as mmdet3d's converters write them), which knows nothing of the calibration in use; else its 3D box,
projected by its ``cam2img`` and ``lidar2cam``, which tells augmentations that the matrices leave out and no more. It is moved as the picture was.

Letters: P points, n boxes, N cameras, m corners. A ``recorded`` box or matrix is the info file's; the others are those after augmentation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bevfusion_plugin.visualization.detection_picture_hook import as_array
from bevfusion_plugin.visualization.seen_sample import NEAREST, SeenSample, in_picture, project

SAME_SIZE = 0.02  # metres, between a box's edges in the two lists of an info file, which are rounded
SAME_PLACE = 5.0  # metres, between its centres in them: 5 degrees at 60 m


@dataclass(frozen=True)
class InBoxPoints:
    """Of one camera: lidar points in boxes that its picture shows, how many land in their box there, and of how many boxes that was 2D."""

    shown: int = 0
    inside: int = 0
    boxes_2d: int = 0

    @property
    def share(self) -> float:
        """``inside`` of ``shown``; NaN where there are none."""
        return self.inside / self.shown if self.shown else float('nan')

    def __add__(self, other: InBoxPoints) -> InBoxPoints:
        return InBoxPoints(self.shown + other.shown, self.inside + other.inside, self.boxes_2d + other.boxes_2d)


def in_box_points(seen: SeenSample, info: Mapping[str, Any]) -> dict[str, InBoxPoints]:
    """Camera -> its numbers; each box of the sample is compared with the nearest of the info file.

    Args:
        seen: The sample, its meta info with ``img_path`` and the matrices.
        info: The entry it was made from, as the data set's ``get_data_info`` gives it.
    """
    annotations = info.get('ann_info') or info.get('eval_ann_info')
    if annotations is None or not len(annotations['gt_bboxes_3d']) or not len(seen.boxes.labels):
        return dict.fromkeys(seen.camera_names, InBoxPoints())
    recorded = as_array(annotations['gt_bboxes_3d'].corners).astype(np.float64)
    back = np.linalg.inv(np.asarray(seen.meta.get('lidar_aug_matrix', np.eye(4)), dtype=np.float64))
    centres = seen.boxes.corners.mean(axis=1) @ back[:3, :3].T + back[:3, 3]
    nearest = np.linalg.norm(centres[:, None] - recorded.mean(axis=1), axis=-1).argmin(axis=1)
    clouds = [seen.points[points_in_box(seen.points, corners), :3] for corners in seen.boxes.corners]
    return {
        name: _landed(seen, camera, clouds, outlines(info, seen.meta['img_path'][camera], recorded[nearest]))
        for camera, name in enumerate(seen.camera_names)
    }


def _landed(seen: SeenSample, camera: int, clouds: Sequence[np.ndarray], recorded: Sequence[np.ndarray | None]) -> InBoxPoints:
    aug = np.asarray(seen.meta['img_aug_matrix'][camera] if 'img_aug_matrix' in seen.meta else np.eye(4), dtype=np.float64)
    found = InBoxPoints()
    for cloud, outline in zip(clouds, recorded):
        if outline is None:
            continue
        pixels, depth = project(cloud, seen.lidar2img[camera])
        pixels = pixels[in_picture(pixels, depth, seen.images[camera].shape[:2])]
        inside = inside_hull(pixels, outline @ aug[:2, :2].T + aug[:2, 3])
        found += InBoxPoints(len(pixels), int(inside.sum()), int(len(outline) == 4))
    return found


def outlines(info: Mapping[str, Any], path: str, boxes: np.ndarray) -> list[np.ndarray | None]:
    """For each of the recorded ``boxes`` (n, 8, 3) the corners (m, 2) of what stands for it in the recorded picture of ``path``, in pixels.

    None: it has no 2D box where others of this camera have, or reaches behind the camera.
    """
    name, camera = next(
        (name, camera) for name, camera in info['images'].items() if isinstance(camera, Mapping) and camera.get('img_path') == path
    )
    lidar2cam, cam2img = (np.asarray(camera[key], dtype=np.float64) for key in ('lidar2cam', 'cam2img'))
    in_camera = boxes @ lidar2cam[:3, :3].T + lidar2cam[:3, 3]
    flat = (info.get('cam_instances') or {}).get(name)
    if flat:
        return [_box_2d(flat, corners) for corners in in_camera]
    matrix = np.eye(4)
    matrix[: cam2img.shape[0], : cam2img.shape[1]] = cam2img
    return [project(corners, matrix)[0] if (corners[:, 2] > NEAREST).all() else None for corners in in_camera]


def _box_2d(flat: Sequence[Mapping[str, Any]], corners: np.ndarray) -> np.ndarray | None:
    """The corners (4, 2) of the 2D box whose 3D box, in the camera's frame, has the size of this one, and of those the nearest."""
    size = np.sort([np.linalg.norm(corners[index] - corners[0]) for index in (4, 3, 1)])
    boxes = np.array([each['bbox_3d'][:6] for each in flat], dtype=np.float64)
    gaps = np.linalg.norm(boxes[:, :3] - corners.mean(axis=0), axis=1)
    gaps[np.abs(np.sort(boxes[:, 3:], axis=1) - size).max(axis=1) > SAME_SIZE] = np.inf
    if gaps.min() > SAME_PLACE:
        return None
    left, top, right, bottom = flat[int(gaps.argmin())]['bbox']
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)], dtype=np.float64)


def points_in_box(points: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Which points (P,) lie in the box with these corners (8, 3), in mmdet3d's order."""
    edges = corners[[4, 3, 1]] - corners[0]  # along length, width, height
    along = (points[:, :3] - corners[0]) @ edges.T / np.maximum((edges**2).sum(axis=1), 1e-9)
    return ((along >= 0) & (along <= 1)).all(axis=1)


def inside_hull(pixels: np.ndarray, corners: np.ndarray, tolerance: float = 1.0) -> np.ndarray:
    """Which pixels (P, 2) lie in the convex hull of ``corners`` (m, 2), or at most ``tolerance`` pixels outside.

    The hull's sides are the lines through two corners that have all others on one side.
    """
    starts, ends = (corners[index] for index in np.triu_indices(len(corners), 1))
    lines = ends - starts
    lengths = np.linalg.norm(lines, axis=1)
    starts, lines = starts[lengths > 1e-9], lines[lengths > 1e-9]
    normals = lines[:, ::-1] * (1, -1) / lengths[lengths > 1e-9, None]
    offsets = np.einsum('ld,lmd->lm', normals, corners - starts[:, None])  # signed distance of each corner from each line
    signs = np.where(offsets.max(axis=1) <= 1e-6, 1.0, -1.0)  # outwards
    is_side = (offsets * signs[:, None]).max(axis=1) <= 1e-6
    distances = np.einsum('ld,lpd->lp', (normals * signs[:, None])[is_side], pixels - starts[is_side, None])
    return (distances <= tolerance).all(axis=0)
