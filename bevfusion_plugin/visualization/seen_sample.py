"""A training sample as the model will see it: points over the augmented pictures, boxes in both.

Letters: P points, n boxes, N cameras, H x W image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from mmengine.structures import BaseDataElement
from torch import Tensor

from bevfusion_plugin.visualization.detection_picture_hook import annotated_boxes, as_array, drawn_cameras
from bevfusion_plugin.visualization.scene_pictures import (
    GAP,
    LEGEND_WIDTH,
    TITLE_HEIGHT,
    SceneBoxes,
    add_axes,
    add_legend,
    camera_order,
    draw_birds_eye_view,
    draw_cameras,
    view_extent,
)

NEAREST = 1.0  # metres in front of a camera, from where on points are drawn
DEPTHS = (0.0, 50.0)  # metres, the ends of the colour scale
POINT_AREAS = (1.6, 12.0)  # square points, of thousands of points in a picture and of a few
PAGE_WIDTH, VIEW = 16.0, 8.0  # inches
DPI = 120
NO_BOXES = SceneBoxes(np.zeros((0, 8, 3)), np.zeros(0, dtype=int))


class SeenSample(NamedTuple):
    """What a pipeline hands to the model, as arrays."""

    name: str
    points: np.ndarray  # (P, >= 3)
    boxes: SceneBoxes
    images: np.ndarray  # (N, H, W, 3) uint8, RGB; N is 0 without cameras
    lidar2img: np.ndarray  # (N, 4, 4) from the lidar frame of the points to these images
    camera_names: list[str]
    meta: Mapping[str, Any]


def seen_sample(packed: Mapping[str, Any]) -> SeenSample:
    """The sample that a data set's pipeline packed (``inputs`` and ``data_samples`` of mmdet3d's ``Pack3DDetInputs``).

    Raises:
        ValueError: If there are no points, or meta info is missing.
    """
    sample, inputs = packed['data_samples'], packed['inputs']
    if 'points' not in inputs:
        raise ValueError("the pipeline packs no 'points'; add them to the keys of Pack3DDetInputs")
    missing = [key for key in ('sample_idx', *['img_path', 'lidar2img'] * ('img' in inputs)) if key not in sample.metainfo]
    if missing:
        raise ValueError(f'the pipeline packs no {" and no ".join(missing)}; add it to meta_keys of Pack3DDetInputs')
    views: dict[str, Any] = dict(images=np.zeros((0, 1, 1, 3), np.uint8), lidar2img=np.zeros((0, 4, 4)), camera_names=[])
    if 'img' in inputs:
        images = inputs['img'] if isinstance(inputs['img'], Tensor) else np.stack([as_array(image) for image in inputs['img']])
        views.update(drawn_cameras(sample.metainfo, images))
    return SeenSample(str(sample.metainfo['sample_idx']), as_array(inputs['points']), trained_boxes(sample), meta=sample.metainfo, **views)


def trained_boxes(sample: BaseDataElement) -> SceneBoxes:
    """Boxes that the model learns from this sample, or, of a data set in test mode, is scored by."""
    found = sample.get('gt_instances_3d')
    if found is not None and 'bboxes_3d' in found:
        return SceneBoxes(as_array(found.bboxes_3d.corners), as_array(found.labels_3d))
    return annotated_boxes(sample, np.asarray(sample.metainfo.get('lidar_aug_matrix', np.eye(4)), dtype=np.float64)) or NO_BOXES


def project(points: np.ndarray, lidar2img: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (P, 2) and depths (P,) of points (P, >= 3); pixels mean nothing where the depth is not positive."""
    rays = points[:, :3].astype(np.float64) @ lidar2img[:3, :3].T + lidar2img[:3, 3]
    return rays[:, :2] / np.where(np.abs(rays[:, 2:]) > 1e-6, rays[:, 2:], 1e-6), rays[:, 2]


def in_picture(pixels: np.ndarray, depth: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Which points (P,) a picture of ``size`` (H, W) shows."""
    return (depth > NEAREST) & (pixels >= 0).all(axis=1) & (pixels < size[::-1]).all(axis=1)


def seen_figure(seen: SeenSample, class_names: Sequence[str] = (), remarks: Sequence[str] = ()) -> Figure:
    """One page: the pictures with the points in them coloured by depth and the boxes, below them the same from above.

    Args:
        seen: The sample.
        class_names: Names by label.
        remarks: N texts for the pictures' corners, beside the cameras' names.
    """
    columns = max(1, min(3, len(seen.images)))
    cell = min(PAGE_WIDTH / columns, VIEW)
    height = cell * seen.images.shape[1] / seen.images.shape[2] if len(seen.images) else 0.0
    rows = -(-len(seen.images) // columns)
    figure = Figure(figsize=(PAGE_WIDTH, TITLE_HEIGHT + rows * height + TITLE_HEIGHT + VIEW), dpi=DPI)
    figure.text(
        0.5,
        1 - 0.4 / figure.get_figheight(),
        f'sample {seen.name}, as the model sees it: {len(seen.points):,} points, {len(seen.boxes.labels)} boxes',
        fontsize=16,
        ha='center',
        va='center',
    )
    order = camera_order(seen.camera_names)
    margin = (PAGE_WIDTH - columns * cell) / 2
    views = [
        add_axes(figure, margin + place % columns * cell + GAP / 2, TITLE_HEIGHT + place // columns * height, cell - GAP, height - GAP)
        for place in range(len(order))
    ]
    texts = [', '.join(filter(None, (seen.camera_names[camera], *remarks[camera : camera + 1]))) for camera in order]
    draw_cameras(views, seen.images[order], seen.lidar2img[order], seen.boxes, texts)
    for view, camera in zip(views, order):
        scale = draw_points(view, seen.points, seen.lidar2img[camera], (seen.images.shape[1], seen.images.shape[2]))
    top, left = 2 * TITLE_HEIGHT + rows * height, (PAGE_WIDTH - VIEW - LEGEND_WIDTH) / 2
    view = add_axes(figure, left, top, VIEW - 0.8, VIEW - 0.8)
    draw_birds_eye_view(view, seen.points, seen.boxes, view_extent(seen.points), 'from above, coloured by height')
    if order:
        figure.colorbar(scale, cax=add_axes(figure, left + VIEW - 0.4, top, 0.25, 3.0), label='depth in the pictures [m]')
    add_legend(figure, dict(boxes=seen.boxes), class_names, (left + VIEW - 0.5, top + 3.4))
    return figure


def draw_points(axes: Axes, points: np.ndarray, lidar2img: np.ndarray, size: tuple[int, int]) -> Any:
    """Draw the lidar points that a picture of ``size`` (H, W) shows, coloured by depth, the nearest on top; the artist, for a colour bar."""
    pixels, depth = project(points, lidar2img)
    shown = in_picture(pixels, depth, size)
    order = np.argsort(-depth[shown])
    area = min(POINT_AREAS[1], max(POINT_AREAS[0], POINT_AREAS[1] * 1000 / max(1, len(order))))
    x, y = pixels[shown][order].T
    return axes.scatter(x, y, c=depth[shown][order], s=area, cmap='turbo_r', vmin=DEPTHS[0], vmax=DEPTHS[1], linewidths=0)
