import math

import pytest
import torch

from bevfusion_plugin.ops.mmcv_ops import points_in_boxes
from bevfusion_plugin.ops.mmcv_ops.points_in_boxes import first_box, inside_boxes


def scene(n_points=200, n_boxes=9):
    points = torch.rand(n_points, 3) * 12 - 6
    boxes = torch.cat([torch.rand(n_boxes, 3) * 8 - 4, torch.rand(n_boxes, 3) * 6, torch.rand(n_boxes, 1) * 6 - 3], 1)
    return points.double(), boxes.double()  # as Python's numbers


def is_inside(point, box):
    """The slow obvious version."""
    x, y, z, dx, dy, dz, yaw = box
    east, north = point[0] - x, point[1] - y
    along, across = east * math.cos(yaw) + north * math.sin(yaw), north * math.cos(yaw) - east * math.sin(yaw)
    return abs(along) < dx / 2 and abs(across) < dy / 2 and z <= point[2] <= z + dz


def test_points_lie_where_a_loop_finds_them(monkeypatch):
    monkeypatch.setattr(points_in_boxes, 'MOST_PAIRS', 100)  # 11 points at once
    points, boxes = scene()
    expected = [[is_inside(point, box) for box in boxes.tolist()] for point in points.tolist()]
    inside = inside_boxes(points, boxes)
    assert inside.tolist() == expected and inside.sum() > 10


def test_the_bottom_and_the_top_belong_to_a_box_and_its_sides_do_not():
    box = torch.tensor([[0.0, 0.0, -1.0, 4.0, 2.0, 2.0, 0.0]])
    points = torch.tensor([[0.0, 0.0, -1.0], [0.0, 0.0, 1.0], [0.0, 0.0, 1.01], [2.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.99, 0.99, 0.0]])
    assert inside_boxes(points, box)[:, 0].tolist() == [True, True, False, False, False, True]


def test_the_first_box_of_a_point_counts():
    inside = torch.tensor([[False, True, True], [False, False, False], [True, False, True]])
    assert first_box(inside).tolist() == [1, -1, 0]


@pytest.mark.parametrize('sizes', [(0, 3), (3, 0)])
def test_no_points_or_no_boxes(sizes):
    inside = inside_boxes(*scene(*sizes))
    assert inside.shape == sizes and first_box(inside).tolist() == [-1] * sizes[0]
