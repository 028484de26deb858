"""The operators as ``mmcv.ops`` calls them: against recorded numbers, and against the compiled ones where those are installed."""

import importlib.util

import pytest
import torch
from goldens import load_golden
from mmcv_operators import our_extension, use_our_operators

from bevfusion_plugin.ops.mmcv_ops import operators
from bevfusion_plugin.ops.mmcv_ops.extension import ORIGIN
from bevfusion_plugin.ops.mmcv_ops.rotated_boxes import in_chunks, rotated_overlaps, shared_area

SPECIAL = 10  # the last recorded boxes touch, are turned by round-off or have no area


@pytest.fixture
def ops(monkeypatch):
    """``mmcv.ops`` on our operators."""
    use_our_operators(monkeypatch)
    import mmcv.ops

    return mmcv.ops


@pytest.fixture(scope='module')
def golden():
    return load_golden('mmcv_ops', 'mmcv_ops')


@pytest.mark.parametrize('mode', ['iou', 'iof'])
@pytest.mark.parametrize('clockwise', [True, False])
def test_rotated_iou_equals_the_recorded(ops, golden, mode, clockwise):
    recorded = golden[f'iou/{mode}/clockwise_{clockwise}']
    actual = ops.box_iou_rotated(golden['iou/boxes1'], golden['iou/boxes2'], mode=mode, clockwise=clockwise)
    torch.testing.assert_close(actual[:-SPECIAL, :-SPECIAL], recorded[:-SPECIAL, :-SPECIAL], rtol=0, atol=1e-5)
    possible = recorded <= 1 + 1e-5  # of two equal boxes turned by 1e-7 mmcv's operator says 3 and 1.5
    assert (~possible).sum() <= 2 and ((actual >= 0) & (actual <= 1 + 1e-6)).all()
    torch.testing.assert_close(actual[possible], recorded[possible], rtol=0, atol=1e-4)
    assert torch.allclose(actual[~possible], torch.ones(()))


def test_aligned_rotated_iou_equals_the_recorded(ops, golden):
    aligned = golden['iou/aligned_boxes2']
    actual = ops.box_iou_rotated(golden['iou/boxes1'][: len(aligned)], aligned, aligned=True)
    torch.testing.assert_close(actual, golden['iou/aligned'], rtol=0, atol=1e-5)


@pytest.mark.parametrize('limit', [0.1, 0.3, 0.5])
def test_rotated_suppression_equals_the_recorded(ops, golden, limit):
    _, kept = ops.nms_rotated(golden['nms_rotated/boxes'], golden['nms_rotated/scores'], limit)
    assert torch.equal(kept, golden[f'nms_rotated/keep_{limit}'])


def test_rotated_suppression_with_labels_equals_the_recorded(ops, golden):
    _, kept = ops.nms_rotated(golden['nms_rotated/boxes'], golden['nms_rotated/scores'], 0.3, labels=golden['nms_rotated/labels'])
    assert torch.equal(kept, golden['nms_rotated/keep_labels_0.3'])


@pytest.mark.parametrize('limit, offset, key', [(0.3, 0, '0.3'), (0.5, 0, '0.5'), (0.7, 0, '0.7'), (0.5, 1, 'offset1_0.5')])
def test_suppression_equals_the_recorded(ops, golden, limit, offset, key):
    _, kept = ops.nms(golden['nms/boxes'], golden['nms/scores'], limit, offset=offset)
    assert torch.equal(kept, golden[f'nms/keep_{key}'])


def test_suppression_by_class_equals_the_recorded(ops, golden):
    _, kept = ops.batched_nms(golden['nms/boxes'], golden['nms/scores'], golden['nms/labels'], dict(type='nms', iou_threshold=0.5))
    assert torch.equal(kept, golden['nms/batched_keep_0.5'])


def test_soft_suppression_equals_the_recorded(ops, golden):
    found, kept = ops.soft_nms(golden['nms/boxes'], golden['nms/scores'], iou_threshold=0.5)
    assert torch.equal(kept, golden['soft_nms/keep'])
    torch.testing.assert_close(found, golden['soft_nms/dets'])


def test_points_in_boxes_equal_the_recorded(ops, golden):
    points, boxes = golden['points_in_boxes/points'], golden['points_in_boxes/boxes']
    recorded = golden['points_in_boxes/cpu']
    assert torch.equal(ops.points_in_boxes_cpu(points, boxes), recorded)
    every, first = torch.zeros_like(recorded), torch.zeros_like(recorded[..., 0])  # mmcv calls these on a GPU only
    operators.points_in_boxes_all_forward(boxes, points, every)
    operators.points_in_boxes_part_forward(boxes, points, first)
    assert torch.equal(every, recorded)
    assert torch.equal(first, torch.where(recorded.any(-1), recorded.argmax(-1), -1).int())


@pytest.mark.parametrize('name', ['small', 'wide'])
@pytest.mark.parametrize('training', [True, False])
def test_voxels_equal_the_recorded(ops, golden, name, training):
    layer = ops.Voxelization(**golden.meta['voxelizers'][f'voxelize/{name}']).train(training)
    for actual, key in zip(layer(golden['voxelize/points']), ('voxels', 'coors', 'num')):
        assert torch.equal(actual, golden[f'voxelize/{name}/train_{training}/{key}']), key


def test_cells_equal_the_recorded(ops, golden):
    arguments = dict(golden.meta['voxelizers']['voxelize/small'], max_num_points=-1)
    assert torch.equal(ops.Voxelization(**arguments)(golden['voxelize/points']), golden['voxelize/dynamic'])


def three_d_boxes(n=80):
    return torch.cat([torch.rand(n, 3) * 20, torch.rand(n, 3) * 8 + 0.1, torch.rand(n, 1) * 6], 1)


def test_boxes_seen_from_above(ops):
    boxes, scores = three_d_boxes(), torch.rand(80)
    flat = boxes[:, [0, 1, 3, 4, 6]]
    torch.testing.assert_close(ops.boxes_overlap_bev(boxes, boxes[:30]), in_chunks(shared_area, flat, flat[:30]).float())
    assert torch.equal(ops.nms3d(boxes, scores, 0.2), ops.nms_rotated(flat, scores, 0.2)[1])
    upright = torch.cat([flat[:, :2] - flat[:, 2:4] / 2, flat[:, :2] + flat[:, 2:4] / 2], 1)
    assert torch.equal(ops.nms3d_normal(boxes, scores, 0.2), ops.nms(upright, scores, 0.2)[1])


@pytest.mark.parametrize('reduction', ['max', 'mean', 'sum'])
def test_dynamic_scatter_trains(ops, reduction):
    cells = torch.randint(-1, 3, (40, 3), dtype=torch.int32)
    features = torch.randn(40, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda values: ops.dynamic_scatter(values, cells, reduction)[0], features)


def test_focal_loss_trains(ops):
    logits, targets = torch.randn(20, 3, dtype=torch.float64, requires_grad=True), torch.randint(0, 4, (20,))
    weight = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: ops.sigmoid_focal_loss(x, targets, 2.0, 0.25, weight, 'mean'), logits)


def test_half_precision_is_taken(ops):
    boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0, 0.0], [1.0, 0.0, 2.0, 2.0, 0.0]])
    assert torch.equal(ops.box_iou_rotated(boxes.half(), boxes.half()), ops.box_iou_rotated(boxes, boxes).half())
    logits = torch.randn(5, 3).half().requires_grad_()
    loss = ops.sigmoid_focal_loss(logits, torch.tensor([0, 1, 2, 3, 0]))
    loss.backward()
    assert loss.dtype == torch.float16 and logits.grad.isfinite().all()


def test_an_operator_leaves_no_trace_in_the_graph(ops):
    boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0, 0.0]], requires_grad=True)
    assert not ops.box_iou_rotated(boxes, boxes).requires_grad, 'as with the compiled one'


@pytest.fixture
def compiled():
    spec = importlib.util.find_spec('mmcv._ext')
    if spec.origin == ORIGIN:
        pytest.skip('mmcv has no compiled operators here (mmcv-lite) to compare with')
    return importlib.import_module('mmcv._ext')


def both(compiled, name, shape, *args, dtype=torch.float32, **kwargs):
    """What the compiled operator and ours write into a tensor of zeros, the last of ``args``."""
    results = torch.zeros(shape, dtype=dtype), torch.zeros(shape, dtype=dtype)
    for module, result in zip((compiled, our_extension()), results):
        getattr(module, name)(*args, result, **kwargs)
    return results


@pytest.mark.parametrize('mode', [0, 1])
def test_rotated_iou_equals_the_compiled(compiled, mode):
    for _ in range(10):
        first, second = (torch.cat([torch.rand(n, 2) * 30, torch.rand(n, 2) * 10 + 0.1, torch.rand(n, 1) * 8], 1) for n in (200, 60))
        expected, actual = both(compiled, 'box_iou_rotated', 200 * 60, first, second, mode_flag=mode, aligned=False)
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize('offset', [0, 1])
def test_suppression_equals_the_compiled(compiled, offset):
    corners, scores = torch.rand(500, 2) * 100, torch.rand(500)
    boxes = torch.cat([corners, corners + torch.rand(500, 2) * 40], 1)
    for limit in (0.0, 0.1, 0.5, 0.7):
        assert torch.equal(operators.nms(boxes, scores, limit, offset), compiled.nms(boxes, scores, iou_threshold=limit, offset=offset))
    for method in (0, 1, 2):
        arguments = dict(iou_threshold=0.3, sigma=0.5, min_score=0.05, method=method, offset=offset)
        dets = torch.zeros(500, 5), torch.zeros(500, 5)
        expected = compiled.softnms(boxes, scores, dets[0], **arguments)
        assert torch.equal(operators.softnms(boxes, scores, dets[1], **arguments), expected)
        torch.testing.assert_close(dets[1][: len(expected)], dets[0][: len(expected)], rtol=0, atol=1e-5)


def test_rotated_suppression_equals_the_compiled(compiled):
    boxes = torch.cat([torch.rand(200, 2) * 30, torch.rand(200, 2) * 10 + 0.1, torch.rand(200, 1) * 8], 1)
    scores = torch.rand(200)
    order = scores.argsort(descending=True)
    nothing = torch.zeros(0, dtype=torch.int)
    for limit in (0.1, 0.3, 0.5):
        near = (in_chunks(rotated_overlaps, boxes, boxes) - limit).abs() < 1e-5  # there round-off decides
        if not near.any():
            arguments = boxes, scores, order, boxes[order], nothing, limit, False
            assert torch.equal(operators.nms_rotated(*arguments), compiled.nms_rotated(*arguments))


def test_points_in_boxes_equal_the_compiled(compiled):
    points, boxes = torch.rand(500, 3) * 20 - 10, three_d_boxes(20) - torch.tensor([10.0, 10.0, 10.0, 0.0, 0.0, 0.0, 3.0])
    expected, actual = both(compiled, 'points_in_boxes_cpu_forward', (20, 500), boxes, points, dtype=torch.int32)
    assert torch.equal(actual, expected) and expected.any()
