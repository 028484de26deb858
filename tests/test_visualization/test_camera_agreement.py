"""Points in boxes and outlines: golden cases by hand, and the slow obvious versions."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.path import Path

from bevfusion_plugin.visualization.camera_agreement import InBoxPoints, inside_hull, outlines, points_in_box

FORWARD = np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])  # lidar x is the camera's depth
CAM2IMG = [[100.0, 0, 50], [0, 100, 40], [0, 0, 1]]


def box(center=(0, 0, 0), size=(4.0, 2.0, 1.0), yaw=0.0):
    """Corners (8, 3) in mmdet3d's order."""
    signs = np.array([(0, 0, 0), (0, 0, 1), (0, 1, 1), (0, 1, 0), (1, 0, 0), (1, 0, 1), (1, 1, 1), (1, 1, 0)]) - 0.5
    turn = np.array([[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])
    return (signs * size) @ turn.T + center


def test_points_lie_in_a_turned_box_or_beside_it():
    corners = box((10, 5, 0), yaw=np.pi / 2)  # 2 m along x, 4 along y
    points = np.array([(10, 5, 0), (10.9, 6.9, 0.4), (11.1, 5, 0), (10, 7.1, 0), (10, 5, 0.6)])
    assert points_in_box(points, corners).tolist() == [True, True, False, False, False]


def test_an_outline_is_the_convex_hull_as_matplotlib_sees_it():
    rng = np.random.default_rng(0)
    square = np.array([(0.0, 0), (10, 0), (10, 10), (0, 10)])
    pixels = rng.uniform(-5, 15, (500, 2))
    turn = np.array([[0.8, -0.6], [0.6, 0.8]])
    inside = inside_hull(pixels @ turn.T, np.concatenate([square, rng.uniform(1, 9, (4, 2))]) @ turn.T, tolerance=0)
    np.testing.assert_array_equal(inside, Path(square).contains_points(pixels))


def test_an_outline_forgives_its_tolerance():
    square = np.array([(0.0, 0), (10, 0), (10, 10), (0, 10)])
    assert inside_hull(np.array([(10.9, 5.0), (11.1, 5)]), square, tolerance=1.0).tolist() == [True, False]


def test_without_points_nothing_is_inside():
    assert inside_hull(np.zeros((0, 2)), np.array([(0.0, 0), (1, 0), (0, 1)])).shape == (0,)
    assert np.isnan(InBoxPoints().share) and (InBoxPoints(4, 1) + InBoxPoints(4, 3)).share == 0.5


def entry(**changes):
    camera = dict(img_path='a.jpg', lidar2cam=FORWARD.tolist(), cam2img=CAM2IMG)
    return dict(dict(images=dict(CAM0=dict(cam2img=CAM2IMG), CAM2=camera, R0_rect=np.eye(4).tolist())), **changes)


def test_without_2d_boxes_the_outline_is_the_projected_box_and_none_behind_the_camera():
    found, behind = outlines(entry(), 'a.jpg', np.stack([box((12, 0, 0)), box((-12, 0, 0))]))
    assert behind is None and found.shape == (8, 2)
    np.testing.assert_allclose(found[0], [50 + 100 * 1 / 10, 40 + 100 * 0.5 / 10])  # the near, right, lower corner


def flat(bbox, center, size):
    length, width, height = size
    return dict(bbox=bbox, bbox_3d=[*center, length, height, width, 0.0])  # in the camera's frame, as mmdet3d's converters write it


@pytest.mark.parametrize(
    'center, size, found', [((0.5, 0, 12.5), (4, 2, 1), True), ((0, 0, 12), (4, 2, 1.1), False), ((6, 0, 12), (4, 2, 1), False)]
)
def test_a_2d_box_is_that_of_the_box_of_the_same_size_nearby(center, size, found):
    info = entry(cam_instances=dict(CAM2=[flat([1, 2, 3, 4], center, size), flat([5, 6, 7, 8], (0, 0, 40), (4, 2, 1))]))
    (outline,) = outlines(info, 'a.jpg', box((12, 0, 0))[None])
    assert (None if outline is None else outline.tolist()) == ([[1, 2], [3, 2], [3, 4], [1, 4]] if found else None)
