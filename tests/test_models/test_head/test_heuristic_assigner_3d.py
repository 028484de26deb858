import pytest
import torch
from goldens import assert_close, load_golden
from module_goldens import FORWARD

from bevfusion_plugin.models.head.heuristic_assigner_3d import HeuristicAssigner3D
from bevfusion_plugin.registry import TASK_UTILS, build_nested


def some_boxes(count):
    boxes = torch.rand(count, 9) * 10
    boxes[:, 3:6] += 1
    return boxes


def test_assignment_equals_the_reference():
    golden = load_golden('heuristic_assigner')
    assigner = build_nested(
        TASK_UTILS,
        dict(
            type='HeuristicAssigner3D', dist_thre=golden.meta['dist_thre'], iou_calculator=dict(type='BboxOverlaps3D', coordinate='lidar')
        ),
    )
    result = assigner.assign(golden['in/bboxes'], golden['in/gt_bboxes'], None, golden['in/gt_labels'], golden['in/query_labels'])
    assert torch.equal(result.gt_inds, golden['out/gt_inds'])
    assert torch.equal(result.labels, golden['out/labels'].long())
    assert_close(result.max_overlaps, golden['out/max_overlaps'], FORWARD, 'max_overlaps')


@pytest.mark.parametrize('with_classes', [True, False])
def test_assignment_equals_a_loop_over_the_boxes(with_classes):
    boxes, gt_bboxes, gt_labels = some_boxes(12), some_boxes(20), torch.randint(3, (20,))
    query_labels = torch.randint(3, (12,)) if with_classes else None
    expected, nearest = torch.zeros(12, dtype=torch.long), torch.full((12,), torch.inf)
    for gt in range(20):
        distance = (boxes[:, :2] - gt_bboxes[gt, :2]).norm(dim=1)
        if with_classes:
            distance = distance + 2.0 * (query_labels != gt_labels[gt])
        chosen = distance.argmin()
        if distance[chosen] <= 2.0 and distance[chosen] < nearest[chosen]:
            expected[chosen], nearest[chosen] = gt + 1, distance[chosen]
    result = HeuristicAssigner3D(dist_thre=2.0).assign(boxes, gt_bboxes, None, gt_labels, query_labels)
    assert 0 < (expected > 0).sum() < 12
    assert torch.equal(result.gt_inds, expected)


def test_assignment_without_ground_truth_is_all_background():
    result = HeuristicAssigner3D().assign(some_boxes(3), torch.zeros(0, 9), None, torch.zeros(0).long(), torch.zeros(3))
    assert not result.gt_inds.any() and not result.max_overlaps.any() and (result.labels == -1).all()
