import pytest
import torch

from bevfusion_plugin.ops.mmcv_ops import suppression
from bevfusion_plugin.ops.mmcv_ops.suppression import (
    greedy_keep,
    overlapping_from_above,
    overlapping_rotated,
    overlapping_upright,
    soft_keep,
    upright_overlaps,
)


def upright_boxes(n):
    corners = torch.rand(n, 2) * 30
    return torch.cat([corners, corners + torch.rand(n, 2) * 12], 1)


def keep_one_by_one(removes):
    """The slow obvious version, on a table of which box removes which."""
    kept = []
    for row in range(len(removes)):
        if not any(removes[other][row] for other in kept):
            kept.append(row)
    return kept


@pytest.mark.parametrize('block', [1, 7, 64, 1000])
@pytest.mark.parametrize('limit', [0.0, 0.1, 0.5])
def test_boxes_are_kept_as_one_by_one(monkeypatch, block, limit):
    monkeypatch.setattr(suppression, 'BLOCK', block)
    boxes, removes = upright_boxes(150), overlapping_upright(limit, 0)
    expected = keep_one_by_one(removes(boxes, boxes).tolist())
    kept = greedy_keep(boxes, removes)
    assert kept.dtype == torch.long and kept.tolist() == expected and 5 < len(expected) < 150


def test_a_long_chain_is_resolved_in_order():
    """Each box removes the next one only, so every second one stays."""
    n = 101
    boxes = torch.stack([torch.arange(n) * 0.5, torch.zeros(n), torch.arange(n) * 0.5 + 1, torch.ones(n)], 1)
    assert greedy_keep(boxes, overlapping_upright(0.3, 0)).tolist() == list(range(0, n, 2))


def test_overlap_of_upright_boxes_by_hand():
    first, second = torch.tensor([0.0, 0.0, 2.0, 2.0]), torch.tensor([1.0, 0.0, 3.0, 2.0])
    assert upright_overlaps(first, second, 0).item() == pytest.approx(2 / 6)
    assert upright_overlaps(first, second, 1).item() == pytest.approx(6 / 12)  # 3 x 3 pixels each, 2 x 3 shared


def test_boxes_seen_from_above_are_turned_or_not():
    boxes = torch.tensor([[0.0, 0.0, 0.0, 4.0, 1.0, 1.0, 0.0], [0.0, 0.0, 5.0, 4.0, 1.0, 1.0, torch.pi / 2]])  # heights play no part
    assert overlapping_from_above(0.2)(boxes, boxes).tolist() == [[True, False], [False, True]]
    assert overlapping_from_above(0.2, with_yaw=False)(boxes, boxes).all()


def test_rotated_boxes_follow_mmcvs_rule_of_their_device():
    boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0, 0.0, 0.0], [0.0, 0.0, 2.0, 2.0, 0.0, 1.0]])
    assert overlapping_rotated(1.0)(boxes, boxes).all(), 'on a CPU labels do not count and the limit itself is too much'


@pytest.mark.parametrize('min_score', [0.0, 0.3])
def test_soft_suppression_equals_a_loop_over_pairs(min_score):
    boxes, scores = upright_boxes(40), torch.rand(40)
    before = scores.clone()

    def weight(iou):
        return torch.exp(-iou * iou / 0.5)

    left, values, expected = set(range(40)), scores.tolist(), []
    while left:
        best = max(left, key=lambda row: values[row])
        expected.append((best, values[best]))
        left.remove(best)
        for row in list(left):
            values[row] *= weight(upright_overlaps(boxes[best], boxes[row], 0)).item()
            if values[row] < min_score:
                left.remove(row)
    rows, new_scores = soft_keep(boxes, scores, weight, min_score, 0)
    assert rows.tolist() == [row for row, _ in expected] and torch.equal(scores, before)
    assert new_scores.tolist() == pytest.approx([value for _, value in expected], rel=1e-5)
    assert len(expected) == 40 if not min_score else 1 < len(expected) < 40


def test_no_boxes_keep_none():
    assert greedy_keep(torch.zeros(0, 4), overlapping_upright(0.5, 0)).shape == (0,)
    rows, scores = soft_keep(torch.zeros(0, 4), torch.zeros(0), torch.exp, 0.0, 0)
    assert rows.shape == scores.shape == (0,)
