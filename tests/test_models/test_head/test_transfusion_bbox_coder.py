import pytest
import torch
from goldens import assert_close, load_golden
from module_goldens import FORWARD

from bevfusion_plugin.models.head.transfusion_bbox_coder import TransFusionBBoxCoder
from bevfusion_plugin.registry import TASK_UTILS, build_nested

CASES = ['bbox_coder_code10', 'bbox_coder_code8_threshold']
PARTS = ('heatmap', 'rot', 'dim', 'center', 'height', 'vel')


def coder(**overrides):
    return TransFusionBBoxCoder(**dict(dict(pc_range=[-10.0, -20.0], out_size_factor=4, voxel_size=[0.5, 0.25], code_size=10), **overrides))


def encoded_as_predictions(boxes, coder):
    """Predictions (1, ., N) that decode to ``boxes``, all of class 1 with score 0.9, 0.8, ..."""
    center, height, dim, rot, vel = coder.encode(boxes).T[None].split([2, 1, 3, 2, coder.code_size - 8], dim=1)
    heatmap = torch.zeros(1, 3, len(boxes))
    heatmap[0, 1] = 0.9 - 0.1 * torch.arange(len(boxes))
    return dict(heatmap=heatmap, rot=rot, dim=dim, center=center, height=height, vel=vel if vel.numel() else None)


def some_boxes(count, columns=9):
    boxes = torch.rand(count, columns) * 2 + 0.5
    boxes[:, 7:] -= 1.5
    return boxes


@pytest.mark.parametrize('name', CASES)
def test_encoded_boxes_equal_the_reference(name):
    golden = load_golden(name)
    targets = build_nested(TASK_UTILS, golden.meta['cfg']).encode(golden['encode/in/boxes'])
    assert_close(targets, golden['encode/out/targets'], FORWARD, name)


@pytest.mark.parametrize('name', CASES)
@pytest.mark.parametrize('filtered', [True, False])
def test_decoded_boxes_equal_the_reference_and_inputs_stay(name, filtered):
    golden = load_golden(name)
    inputs = {part: golden.group('decode/in/').get(part) for part in PARTS}
    decoded = build_nested(TASK_UTILS, golden.meta['cfg']).decode(*inputs.values(), filter=filtered)
    for i, sample in enumerate(decoded):
        assert_close(sample['bboxes'], golden[f'decode/out/filter_{filtered}/bboxes{i}'], FORWARD, f'bboxes{i}')
        assert_close(sample['scores'], golden[f'decode/out/filter_{filtered}/scores{i}'], FORWARD, f'scores{i}')
        assert torch.equal(sample['labels'], golden[f'decode/out/filter_{filtered}/labels{i}'])
    for part, value in inputs.items():
        assert value is None or torch.equal(value, golden[f'decode/in/{part}']), f'{part} was changed in place'


def test_code_can_be_checked_by_hand():
    # cells of 2 m x 1 m; a box of height 2 with its bottom at -1 has its gravity centre at 0
    code = coder().encode(torch.tensor([[-4.0, -18.5, -1.0, 1.0, 1.0, 2.0, torch.pi / 2, 3.0, 4.0]]))
    assert torch.allclose(code, torch.tensor([[3.0, 1.5, 0.0, 0.0, 0.0, 0.6931, 1.0, 0.0, 3.0, 4.0]]), atol=1e-4)


@pytest.mark.parametrize('code_size', [8, 10])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_decoding_undoes_encoding(code_size, dtype):
    boxes = some_boxes(6, code_size - 1).to(dtype)
    decoded = coder(code_size=code_size).decode(**encoded_as_predictions(boxes, coder(code_size=code_size)))
    assert decoded[0]['bboxes'].dtype == dtype
    assert_close(decoded[0]['bboxes'], boxes, 1e-5)
    assert (decoded[0]['labels'] == 1).all()


def test_velocity_of_the_boxes_is_left_out_of_code_8():
    boxes = some_boxes(3)
    assert torch.equal(coder(code_size=8).encode(boxes), coder(code_size=8).encode(boxes[:, :7]))


@pytest.mark.parametrize('threshold, kept', [(None, 4), (0.0, 4), (0.75, 2), (0.95, 0)])
def test_score_threshold_works_without_a_range_and_zero_means_none(threshold, kept):
    predictions = encoded_as_predictions(some_boxes(4), coder())
    predictions['heatmap'][0, :, 3] = 0  # 0 is not above a threshold of 0, yet kept
    decoded = coder(score_threshold=threshold).decode(**predictions, filter=True)[0]
    assert len(decoded['bboxes']) == len(decoded['scores']) == len(decoded['labels']) == kept


def test_range_holds_the_bottom_centre_with_its_borders():
    boxes = some_boxes(3)
    boxes[:, 6] = 0
    boxes[:, :3] = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, -0.5], [5.0, 1.0, 0.0]])
    boxes[:, 5] = 2.0
    decoded = coder(post_center_range=[0, 0, -0.25, 4, 4, 0.25])
    predictions = encoded_as_predictions(boxes, decoded)
    assert decoded.decode(**predictions, filter=True)[0]['bboxes'].shape == (1, 9)
    assert len(decoded.decode(**predictions, filter=False)[0]['bboxes']) == 3


def test_no_boxes_give_no_targets_whatever_their_columns():
    assert coder().encode(torch.zeros(0, 7)).shape == (0, 10)


def test_boxes_without_velocity_are_refused_by_code_10():
    with pytest.raises(ValueError, match='code_size 10 needs boxes of 9 columns .* got 7'):
        coder().encode(torch.ones(2, 7))


def test_other_code_sizes_are_refused():
    with pytest.raises(ValueError, match='code_size must be 10, or 8 without velocity, got 9'):
        coder(code_size=9)
