"""Pictures of one scene from plain arrays: bird's-eye view and cameras, ground truth beside prediction.

Letters: P points, n boxes, N cameras, H x W image. Lidar frame, metres. The corners of a box are in mmdet3d's order
(x0y0z0, x0y0z1, x0y1z1, x0y1z0, then the same at x1); its heading points from x0 to x1. Figures are made with
matplotlib's object interface, so that the caller's pyplot state and backend are not touched.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgba_array
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle
from matplotlib.patheffects import withStroke

from bevfusion_plugin.visualization.box_lines import box_wireframes

# The two rows in which the nuScenes devkit shows its cameras.
NUSCENES_CAMERAS = ('CAM_FRONT_LEFT', 'CAM_FRONT', 'CAM_FRONT_RIGHT', 'CAM_BACK_LEFT', 'CAM_BACK', 'CAM_BACK_RIGHT')
CAMERA_COLUMNS = 3
# By label, beginning anew when they run out; bright enough for the dark bird's-eye view and for photographs.
CLASS_COLORS = ('#ff9f1c', '#ff4d4d', '#d2a679', '#ffe14d', '#c77dff', '#9ef01a', '#ff5dc8', '#00d5ff', '#5b9bff', '#2ee6a8')
FOOTPRINT = (0, 3, 7, 4)  # corners of the lower face, around it
FRONT_EDGE = (4, 7)  # of the lower face
MAX_EXTENT = 80.0  # metres; a raw sweep reaches 105 m, with hardly a point out there
HEIGHT_LIMITS = (-3.0, 3.0)  # metres around the lidar; nuScenes' ground lies near -1.8 m
BACKGROUND = '#14161b'
VIEW_SIDE, VIEW_CELL = 7.2, 8.0  # inches: a bird's-eye view without and with its labels
VIEW_CELLS = 360  # cells of 2 x 2 dots: 7.2 inches x 100 dots an inch / 360
TITLE_HEIGHT, LEGEND_WIDTH, GAP = 0.9, 2.8, 0.06  # inches


class SceneBoxes(NamedTuple):
    """Boxes of one scene."""

    corners: np.ndarray  # (n, 8, 3)
    labels: np.ndarray  # (n,) class indices
    scores: np.ndarray | None = None  # (n,) in [0, 1]; None for ground truth


def box_colors(boxes: SceneBoxes) -> np.ndarray:
    """RGBA (n, 4) by class; the alpha of a prediction rises with its score."""
    colors = to_rgba_array(CLASS_COLORS)[np.asarray(boxes.labels, dtype=int) % len(CLASS_COLORS)]
    if boxes.scores is not None:
        colors[:, 3] = 0.4 + 0.6 * np.clip(boxes.scores, 0, 1)
    return colors


def camera_order(names: Sequence[str]) -> list[int]:
    """Which camera to show at each place: nuScenes' six in the devkit's two rows, any others in the order given."""
    if sorted(names) == sorted(NUSCENES_CAMERAS):
        return [list(names).index(name) for name in NUSCENES_CAMERAS]
    return list(range(len(names)))


def view_extent(points: np.ndarray) -> float:
    """Half the width of the bird's-eye view: out to the farthest point, in steps of 5 m, at most ``MAX_EXTENT``."""
    farthest = np.abs(points[:, :2]).max(initial=0.0)
    return min(MAX_EXTENT, 5.0 * math.ceil(farthest / 5.0)) or MAX_EXTENT


def height_image(points: np.ndarray, extent: float) -> np.ndarray:
    """Greatest z in each of ``VIEW_CELLS`` x ``VIEW_CELLS`` cells, as [row y, column x]; NaN where there is no point.

    Ten sweeps are 250,000 points: drawn as an image they take milliseconds, as markers seconds.

    Args:
        points: (P, >= 3) as (x, y, z, ...).
        extent: The cells cover -``extent`` to ``extent`` metres in x and y; points outside are left out.
    """
    cells = np.floor((points[:, :2] + extent) * (VIEW_CELLS / (2 * extent)))
    inside = ((cells >= 0) & (cells < VIEW_CELLS)).all(axis=1)
    column, row = cells[inside].astype(int).T
    image = np.full((VIEW_CELLS, VIEW_CELLS), -np.inf, dtype=np.float32)
    np.maximum.at(image, (row, column), points[inside, 2])
    return np.where(np.isinf(image), np.nan, image)


def draw_birds_eye_view(axes: Axes, points: np.ndarray, boxes: SceneBoxes, extent: float, title: str = '') -> None:
    """Draw lidar points, boxes with a heading tick and circles of equal range.

    Args:
        axes: Where to draw; the limits are set to +-``extent``.
        points: (P, >= 3) as (x, y, z, ...), coloured by height (blue low, yellow high).
        boxes: Outlined in the colour of their class, the fainter the lower the score.
        extent: Half the width of the view, metres.
        title: Written above.
    """
    axes.set_facecolor(BACKGROUND)
    step = 20 if extent > 40 else 10 if extent > 15 else 5  # three or four circles
    for radius in range(step, math.ceil(extent), step):
        axes.add_patch(Circle((0, 0), radius, fill=False, color='#7c828e', linewidth=0.7, linestyle=(0, (4, 4))))
        axes.text(
            0,
            -radius,
            f'{radius} m',
            color='#c3c8d1',
            fontsize=9,
            ha='center',
            va='center',
            clip_on=True,
            bbox=dict(facecolor=BACKGROUND, edgecolor='none', pad=1.5),
        )
    axes.imshow(
        height_image(points, extent),
        extent=(-extent, extent, -extent, extent),
        origin='lower',
        cmap='cividis',
        vmin=HEIGHT_LIMITS[0],
        vmax=HEIGHT_LIMITS[1],
        interpolation='nearest',
    )
    middle = boxes.corners[:, FOOTPRINT, :2].mean(axis=1)  # (n, 2)
    front = boxes.corners[:, FRONT_EDGE, :2].mean(axis=1)
    outlines = boxes.corners[:, FOOTPRINT + FOOTPRINT[:1], :2]  # (n, 5, 2)
    ticks = np.stack([middle, 1.4 * front - 0.4 * middle], axis=1)  # (n, 2, 2), sticking out at the front
    for lines in (outlines, ticks):
        axes.add_collection(LineCollection(list(lines), colors=box_colors(boxes), linewidths=1.4), autolim=False)
    axes.plot(0, 0, marker='+', color='white', markersize=9)
    axes.set(xlim=(-extent, extent), ylim=(-extent, extent), aspect='equal', xlabel='x [m]', ylabel='y [m]')
    axes.set_title(title, fontsize=13, loc='left')


def draw_cameras(axes: Sequence[Axes], images: np.ndarray, lidar2img: np.ndarray, boxes: SceneBoxes, titles: Sequence[str]) -> None:
    """Draw each image and the edges of the boxes in it, the front face crossed.

    Args:
        axes: N axes.
        images: (N, H, W, 3) uint8, RGB.
        lidar2img: (N, 4, 4) to these images; see ``compose_image_augmentation`` for augmented ones.
        boxes: Drawn in the colour of their class, the fainter the lower the score.
        titles: N texts for the upper left corner.
    """
    height, width = images.shape[1:3]
    colors = box_colors(boxes)
    for view, image, matrix, title in zip(axes, images, lidar2img, titles):
        view.imshow(image)
        lines, which = box_wireframes(boxes.corners, matrix, (height, width))
        view.add_collection(LineCollection(list(lines), colors=colors[which], linewidths=1.2), autolim=False)
        view.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5), xticks=[], yticks=[])
        view.text(
            0.012,
            0.965,
            title,
            transform=view.transAxes,
            va='top',
            fontsize=10,
            color='white',
            path_effects=[withStroke(linewidth=2.5, foreground='black')],
        )


def scene_figure(
    points: np.ndarray,
    prediction: SceneBoxes,
    ground_truth: SceneBoxes | None = None,
    images: np.ndarray | None = None,
    lidar2img: np.ndarray | None = None,
    camera_names: Sequence[str] | None = None,
    class_names: Sequence[str] = (),
    title: str = '',
) -> Figure:
    """One page about a scene: bird's-eye views side by side, below them the cameras, ground truth above prediction.

    Args:
        points: (P, >= 3) lidar points.
        prediction: Predicted boxes, only those to be shown.
        ground_truth: Annotated boxes; None leaves their part of the page out.
        images: (N, H, W, 3) uint8, RGB; None gives the bird's-eye view alone.
        lidar2img: (N, 4, 4) to these images.
        camera_names: N names; nuScenes' six are shown in the devkit's two rows.
        class_names: Names by label; a label without one is shown as its number.
        title: Headline.

    Returns:
        The figure; ``figure.savefig(path)`` writes it.

    Raises:
        ValueError: If the shapes do not fit together.
    """
    sides = {'prediction': prediction} if ground_truth is None else {'ground truth': ground_truth, 'prediction': prediction}
    width, top = VIEW_CELL * len(sides) + LEGEND_WIDTH, TITLE_HEIGHT + VIEW_CELL
    cameras = np.zeros((0, 1, 1, 3), dtype=np.uint8) if images is None else images
    names = [f'camera {index}' for index in range(len(cameras))] if camera_names is None else camera_names
    _check_scene(points, sides, cameras, lidar2img, names)
    columns = max(1, min(CAMERA_COLUMNS, len(cameras)))
    cell_width = min(width / columns, VIEW_CELL)
    cell = cell_width, cell_width * cameras.shape[1] / cameras.shape[2]  # inches
    figure = Figure(figsize=(width, top + math.ceil(len(cameras) / columns) * len(sides) * cell[1]), dpi=100)
    figure.text(0.5, 1 - 0.3 / figure.get_figheight(), title, fontsize=15, ha='center', va='center')
    order = camera_order(names)
    for index, (side, boxes) in enumerate(sides.items()):
        view = add_axes(figure, 0.7 + index * VIEW_CELL, TITLE_HEIGHT, VIEW_SIDE, VIEW_SIDE)
        draw_birds_eye_view(view, points, boxes, view_extent(points), f'{side} ({len(boxes.labels)} boxes)')
        if order and lidar2img is not None:
            places = [divmod(place, columns) for place in range(len(order))]
            views = [
                add_axes(figure, column * cell[0] + GAP / 2, top + (row * len(sides) + index) * cell[1], cell[0] - GAP, cell[1] - GAP)
                for row, column in places
            ]
            draw_cameras(views, cameras[order], lidar2img[order], boxes, [f'{names[camera]}, {side}' for camera in order])
    add_legend(figure, sides, class_names, (width - LEGEND_WIDTH, TITLE_HEIGHT))
    return figure


def add_axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes at a place in inches from the upper left corner of the page."""
    page_width, page_height = figure.get_size_inches()
    return figure.add_axes((left / page_width, 1 - (top + height) / page_height, width / page_width, height / page_height))


def add_legend(figure: Figure, sides: Mapping[str, SceneBoxes], class_names: Sequence[str], place: tuple[float, float]) -> None:
    """Colours of the classes in the scene with their counts, in the order of ``sides``, at ``place`` (left, top) in inches."""
    labels = np.unique(np.concatenate([np.asarray(boxes.labels, dtype=int) for boxes in sides.values()]))
    handles = []
    for label in labels:
        name = class_names[label] if label < len(class_names) else f'class {label}'
        counts = ' / '.join(str(int((np.asarray(boxes.labels) == label).sum())) for boxes in sides.values())
        handles.append(Line2D([], [], color=CLASS_COLORS[label % len(CLASS_COLORS)], linewidth=3, label=f'{name}: {counts}'))
    width, height = figure.get_size_inches()
    figure.legend(
        handles=handles,
        title=' / '.join(sides),
        loc='upper left',
        frameon=False,
        fontsize=11,
        title_fontsize=11,
        bbox_to_anchor=(place[0] / width, 1 - place[1] / height),
        alignment='left',
        borderaxespad=0,
    )


def _check_scene(
    points: np.ndarray, sides: Mapping[str, SceneBoxes], images: np.ndarray, lidar2img: np.ndarray | None, camera_names: Sequence[str]
) -> None:
    if points.ndim != 2 or points.shape[1] < 3:
        raise ValueError(f'points must be (P, >= 3) as (x, y, z, ...), got {points.shape}')
    for side, boxes in sides.items():
        count = len(boxes.labels)
        if boxes.corners.shape != (count, 8, 3) or (boxes.scores is not None and len(boxes.scores) != count):
            scores = 'none' if boxes.scores is None else len(boxes.scores)
            raise ValueError(
                f'{side}: {count} labels need corners ({count}, 8, 3) and as many scores, got corners '
                f'{boxes.corners.shape}, scores: {scores}'
            )
    if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8:
        raise ValueError(f'images must be (N, H, W, 3) of uint8, got {images.shape} of {images.dtype}')
    if len(images) and (lidar2img is None or lidar2img.shape != (len(images), 4, 4) or len(camera_names) != len(images)):
        raise ValueError(
            f'{len(images)} images need lidar2img ({len(images)}, 4, 4) and as many camera_names, got '
            f'{None if lidar2img is None else lidar2img.shape} and {len(camera_names)} names'
        )
