import itertools

import pytest
import torch
from goldens import assert_close, load_golden
from module_goldens import FORWARD

from bevfusion_plugin.registry import TASK_UTILS, build_nested

RANGE = dict(point_cloud_range=[-10.0, -20.0, -5.0, 10.0, 20.0, 3.0])


def hungarian(**overrides):
    return build_nested(TASK_UTILS, dict(load_golden('hungarian_assigner').meta['cfg'], **overrides))


def some_boxes(count, columns=9):
    boxes = torch.rand(count, columns) * 10
    boxes[:, 3:6] += 1
    return boxes


@pytest.mark.parametrize('name', ['hungarian_assigner', 'hungarian_assigner_no_gt'])
def test_assignment_equals_the_reference(name):
    golden = load_golden(name)
    result = hungarian().assign(golden['in/bboxes'], golden['in/gt_bboxes'], golden['in/gt_labels'], golden['in/cls_pred'], golden.meta)
    assert torch.equal(result.gt_inds, golden['out/gt_inds'])
    assert torch.equal(result.labels, golden['out/labels'])
    assert (result.max_overlaps is None) == golden.meta['max_overlaps_is_none']
    if result.max_overlaps is not None:
        assert_close(result.max_overlaps, golden['out/max_overlaps'], FORWARD, 'max_overlaps')


def test_costs_equal_the_reference():
    golden = load_golden('hungarian_assigner')
    assigner = hungarian()
    assert_close(assigner.reg_cost(golden['in/bboxes'], golden['in/gt_bboxes'], golden.meta), golden['out/reg_cost'], FORWARD, 'reg_cost')
    iou = assigner.iou_calculator(golden['in/bboxes'], golden['in/gt_bboxes'])
    assert_close(iou, golden['out/iou'], FORWARD, 'iou')
    assert_close(assigner.iou_cost(golden['out/iou']), golden['out/iou_cost'], FORWARD, 'iou_cost')
    costs = assigner.costs(
        golden['in/bboxes'][None], golden['in/gt_bboxes'][None], golden['in/gt_labels'][None], golden['in/cls_pred'], None, golden.meta
    )
    assert_close(costs.total[0], golden['out/cost'], FORWARD, 'cost')


def test_assignment_has_the_least_cost_of_all_pairings():
    boxes, gt_bboxes, gt_labels = some_boxes(5), some_boxes(3), torch.tensor([0, 2, 1])
    logits = torch.randn(1, 4, 5)
    assigner = hungarian()
    result = assigner.assign(boxes, gt_bboxes, gt_labels, logits, RANGE)
    cost = assigner.costs(boxes[None], gt_bboxes[None], gt_labels[None], logits, None, RANGE).total[0]
    best = min(itertools.permutations(range(5), 3), key=lambda rows: sum(cost[row, gt] for gt, row in enumerate(rows)))
    assert [(result.gt_inds == gt + 1).nonzero().item() for gt in range(3)] == list(best)


def test_more_boxes_than_predictions_leave_no_background():
    result = hungarian().assign(some_boxes(2), some_boxes(6), torch.arange(6) % 4, torch.randn(1, 4, 2), RANGE)
    assert (result.gt_inds > 0).all() and result.gt_inds.unique().numel() == 2


def test_predictions_without_velocity_match_boxes_with_velocity():
    boxes, gt_bboxes, labels, logits = some_boxes(5), some_boxes(3), torch.arange(3), torch.randn(1, 4, 5)
    with_velocity = hungarian().assign(boxes, gt_bboxes, labels, logits, RANGE)
    without = hungarian().assign(boxes[:, :7], gt_bboxes, labels, logits, RANGE)
    assert torch.equal(with_velocity.gt_inds, without.gt_inds)


def test_float64_predictions_are_matched_like_float32():
    boxes, gt_bboxes, labels, logits = some_boxes(5), some_boxes(3), torch.arange(3), torch.randn(1, 4, 5)
    double = hungarian().assign(boxes.double(), gt_bboxes.double(), labels, logits.double(), RANGE)
    assert torch.equal(double.gt_inds, hungarian().assign(boxes, gt_bboxes, labels, logits, RANGE).gt_inds)


@pytest.mark.parametrize('where, term', [('logit', 'cls_cost'), ('x', 'reg_cost'), ('yaw', 'iou_cost'), ('size', 'iou_cost')])
def test_costs_that_are_not_finite_are_named(where, term):
    boxes, logits = some_boxes(5), torch.randn(1, 4, 5)
    if where == 'logit':
        logits[0, 1, 3] = torch.nan
    else:
        boxes[3, dict(x=0, yaw=6, size=4)[where]] = torch.inf if where == 'size' else torch.nan
    with pytest.raises(ValueError, match=f'{term}.*training has diverged'):
        hungarian().assign(boxes, some_boxes(2), torch.tensor([1, 2]), logits, RANGE)


def test_missing_class_logits_are_named():
    with pytest.raises(ValueError, match='cls_pred=None; give it the class logits'):
        hungarian().costs(some_boxes(2)[None], some_boxes(1)[None], torch.zeros(1, 1, dtype=torch.long), None, None, RANGE)
