import math

import pytest
import torch
from shapely import affinity, geometry

from bevfusion_plugin.ops.mmcv_ops import rotated_boxes
from bevfusion_plugin.ops.mmcv_ops.rotated_boxes import in_chunks, rotated_overlaps, shared_area

SQUARE = torch.tensor([0.0, 0.0, 2.0, 2.0, 0.0], dtype=torch.float64)


def random_boxes(n):
    return torch.cat([torch.rand(n, 2) * 20 - 10, torch.rand(n, 2) * 10 + 0.05, torch.rand(n, 1) * 12 - 6], 1)


def polygon(box):
    x, y, w, h, angle = box.double().tolist()
    return affinity.translate(affinity.rotate(geometry.box(-w / 2, -h / 2, w / 2, h / 2), angle, (0, 0), use_radians=True), x, y)


def test_areas_equal_those_of_polygons():
    first, second = random_boxes(60), random_boxes(40)
    before = first.clone(), second.clone()
    expected = torch.tensor([[polygon(a).intersection(polygon(b)).area for b in second] for a in first], dtype=torch.float64)
    torch.testing.assert_close(in_chunks(shared_area, first, second), expected, rtol=1e-9, atol=1e-9)
    assert torch.equal(first, before[0]) and torch.equal(second, before[1])
    assert (expected > 0).sum() > 500, 'most pairs are to meet'


@pytest.mark.parametrize(
    'other, area',
    [
        ([0.0, 0.0, 2.0, 2.0, 0.0], 4.0),  # the same
        ([0.0, 0.0, 2.0, 2.0, math.pi / 2], 4.0),
        ([0.0, 0.0, 2.0, 2.0, math.pi], 4.0),
        ([0.0, 0.0, 2.0, 2.0, 1e-7], 4.0),
        ([0.0, 0.0, 2.0, 2.0, 100 * math.pi], 4.0),
        ([2.0, 0.0, 2.0, 2.0, 0.0], 0.0),
        ([2.0, 2.0, 2.0, 2.0, 0.0], 0.0),  # an edge, a corner
        ([1.0, 1.0, 2.0, 2.0, 0.0], 1.0),
        ([1.0, 0.0, 2.0, 2.0, 0.0], 2.0),
        ([0.0, 0.0, 1.0, 0.5, 0.3], 0.5),
        ([0.0, 0.0, 9.0, 9.0, 0.3], 4.0),  # within, around
        ([0.0, 0.0, 2.0, 2.0, math.pi / 4], 8 * (math.sqrt(2) - 1)),  # an octagon
        ([0.0, 0.0, 0.0, 2.0, 0.2], 0.0),
        ([0.0, 0.0, 0.0, 0.0, 0.0], 0.0),
        ([1e4, 1e4, 2.0, 2.0, 1.0], 0.0),
    ],
)
def test_areas_known_by_hand(other, area):
    other = torch.tensor(other, dtype=torch.float64)
    for first, second in ((SQUARE, other), (other, SQUARE)):
        assert shared_area(first, second).item() == pytest.approx(area, abs=1e-6)


def test_the_positive_angle_turns_from_x_to_y():
    bar, above = torch.tensor([0.0, 0.0, 4.0, 1.0, math.pi / 4]), torch.tensor([1.0, 1.0, 0.2, 0.2, 0.0])
    assert shared_area(bar, above).item() == pytest.approx(0.04)
    assert shared_area(bar, above * torch.tensor([1.0, -1.0, 1.0, 1.0, 1.0])).item() == 0


def test_overlaps_are_shares_of_the_union_or_of_the_first():
    half = torch.tensor([0.0, 0.0, 2.0, 1.0, 0.0])
    assert rotated_overlaps(SQUARE, half).item() == pytest.approx(0.5)
    assert rotated_overlaps(SQUARE, half, of_first=True).item() == pytest.approx(0.5)
    assert rotated_overlaps(half, SQUARE, of_first=True).item() == pytest.approx(1.0)


@pytest.mark.parametrize('of_first', [False, True])
def test_a_box_without_area_overlaps_nothing(of_first):
    flat = SQUARE * torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0])
    boxes = torch.stack([SQUARE, flat])
    overlaps = in_chunks(lambda a, b: rotated_overlaps(a, b, of_first), boxes, boxes)
    assert overlaps.tolist() == [[1.0, 0.0], [0.0, 0.0]]


def test_chunks_give_what_one_table_gives(monkeypatch):
    first, second = random_boxes(23), random_boxes(7)
    whole = rotated_overlaps(first[:, None], second[None])
    monkeypatch.setattr(rotated_boxes, 'MOST_PAIRS', 20)
    assert torch.equal(in_chunks(rotated_overlaps, first, second), whole)


@pytest.mark.parametrize('sizes', [(0, 3), (3, 0), (0, 0)])
def test_no_boxes_have_no_overlaps(sizes):
    assert in_chunks(rotated_overlaps, random_boxes(sizes[0]), random_boxes(sizes[1])).shape == sizes
