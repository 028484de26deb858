import pytest
import torch
from mmdet3d.structures.ops import BboxOverlaps3D

from bevfusion_plugin.models.head.box_overlaps import batch_overlaps


def some_boxes(samples, count, columns=9):
    boxes = torch.rand(samples, count, columns) * 8
    boxes[..., 6] *= 3
    return boxes


@pytest.mark.parametrize('coordinate', ['lidar', 'camera'])
def test_overlaps_of_a_batch_are_those_of_mmdet3d_sample_by_sample(coordinate):
    calculator = BboxOverlaps3D(coordinate=coordinate)
    boxes, gt_boxes = some_boxes(3, 30), some_boxes(3, 12, columns=7)
    gt_boxes[0, 0] = boxes[0, 0, :7]
    gt_boxes[1, 0, 3:6] = 0  # a box without extent, as those that fill up a batch
    expected = torch.stack([calculator(a[:, :7], b) for a, b in zip(boxes, gt_boxes)])
    before = boxes.clone(), gt_boxes.clone()
    actual = batch_overlaps(calculator, boxes, gt_boxes)
    assert 20 < (expected > 0.01).sum() and actual[0, 0, 0] == pytest.approx(1)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-7)
    assert torch.equal(boxes, before[0]) and torch.equal(gt_boxes, before[1])


def test_float64_boxes_give_float64():
    assert batch_overlaps(BboxOverlaps3D('lidar'), some_boxes(1, 2).double(), some_boxes(1, 3).double()).dtype == torch.float64
