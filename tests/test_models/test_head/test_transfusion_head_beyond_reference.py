"""What the reference's head cannot do."""

import pytest
import torch
from goldens import assert_close, load_golden
from module_goldens import FORWARD
from recorded_heads import METAS, TRAINED_HEADS, build, instances, no_gt, recorded, recorded_gt, total
from torch import nn

from bevfusion_plugin.models.head import transfusion_head
from bevfusion_plugin.models.head.proposals import best_proposals
from bevfusion_plugin.registry import MODELS, build_nested

CODE = ('center', 'height', 'dim', 'rot', 'vel')


def test_losses_twice_from_the_same_predictions_are_equal_and_leave_them_alone():
    golden = load_golden('head_nuscenes')
    head = recorded(golden).eval()
    preds_dicts = head(golden['in/x'], METAS)
    before = {key: value.clone() for key, value in preds_dicts[0][0].items()}
    first = head.loss_by_feat(preds_dicts, recorded_gt(golden))
    detections = head.predict_by_feat(preds_dicts, METAS)
    second = head.loss_by_feat(preds_dicts, recorded_gt(golden))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert all(torch.equal(value, preds_dicts[0][0][key]) for key, value in before.items())
    assert torch.equal(detections[0].scores_3d, head.predict_by_feat(preds_dicts, METAS)[0].scores_3d)


def test_sample_without_ground_truth_is_all_background():
    golden = load_golden('head_nuscenes')
    head = recorded(golden).eval()
    preds_dicts = head(golden['in/x'], METAS)
    gt = recorded_gt(golden)[0]
    targets = head.get_targets([gt, no_gt()], preds_dicts[0])
    alone = head.get_targets([gt, gt], preds_dicts[0])
    assert (targets.labels[1] == 10).all() and (targets.label_weights[1] == 1).all()
    assert not targets.bbox_weights[1].any() and not targets.ious[1].any() and not targets.heatmap[1].any()
    assert targets.num_pos == len(gt.labels_3d)
    assert torch.equal(targets.labels[0], alone.labels[0])


@pytest.mark.parametrize('assigner', ['HungarianAssigner3D', 'HeuristicAssigner3D'])
@pytest.mark.parametrize('layers', [1, 2])
def test_targets_of_a_batch_are_those_of_each_sample_alone(assigner, layers):
    golden = load_golden('head_nuscenes')
    head = build(
        num_decoder_layers=layers,
        train_cfg=None if assigner == 'HungarianAssigner3D' else dict(assigner=dict(type=assigner, dist_thre=200.0)),
    ).eval()
    ((preds,),) = head(golden['in/x'][[0, 1, 1]])
    boxes, classes = (sample.bboxes_3d.tensor for sample in recorded_gt(golden)), preds['query_labels']
    truth = [instances(next(boxes), classes[0, :5]), no_gt(), instances(next(boxes)[:3], classes[2, :3])]
    batch = head.get_targets(truth, [preds])
    assert 0 < batch.num_pos < batch.labels.numel()
    for sample in range(3):
        alone = head.get_targets(truth[sample : sample + 1], [{key: value[sample : sample + 1] for key, value in preds.items()}])
        for name in ('labels', 'label_weights', 'bbox_targets', 'bbox_weights', 'ious', 'heatmap'):
            assert torch.equal(getattr(batch, name)[sample : sample + 1], getattr(alone, name)), (sample, name)


@pytest.mark.parametrize('columns', [7, 9])
@pytest.mark.parametrize('assigner', ['HungarianAssigner3D', 'HeuristicAssigner3D'])
def test_batch_without_ground_truth_trains(columns, assigner):
    golden = load_golden('head_nuscenes')
    head = build(train_cfg=None if assigner == 'HungarianAssigner3D' else dict(assigner=dict(type=assigner)))
    gt = instances(torch.zeros(0, columns), torch.zeros(0, dtype=torch.long))
    losses = head.loss_by_feat(head(golden['in/x']), [gt, gt])
    assert losses['matched_ious'] == 0 and losses['layer_-1_loss_bbox'] == 0
    total(losses).backward()
    assert all(torch.isfinite(p.grad).all() for p in head.parameters())


@pytest.mark.parametrize('auxiliary, layers', [(True, ['layer_0', 'layer_1', 'layer_-1']), (False, ['layer_-1'])])
def test_several_decoder_layers_train_and_predict(auxiliary, layers):
    golden = load_golden('head_nuscenes')
    head = build(num_decoder_layers=3, auxiliary=auxiliary)
    head.init_weights()
    preds_dicts = head(golden['in/x'], METAS)
    assert preds_dicts[0][0]['center'].shape == (2, 2, 20 * len(layers))
    losses = head.loss_by_feat(preds_dicts, recorded_gt(golden))
    assert set(losses) == {'loss_heatmap', 'matched_ious', *(f'{layer}_loss_{part}' for layer in layers for part in ('cls', 'bbox'))}
    total(losses).backward()
    assert all(torch.isfinite(p.grad).all() for p in head.parameters() if p.grad is not None)
    without_gradient = {name for name, p in head.named_parameters() if p.grad is None}
    unsupervised = () if auxiliary else ('prediction_heads.0.', 'prediction_heads.1.')
    assert without_gradient == {name for name, _ in head.named_parameters() if name.startswith(unsupervised)}
    assert len(head.eval().predict(golden['in/x'], METAS)) == 2


def test_supervised_layers_are_matched_each_on_its_own_and_detections_come_from_the_last():
    golden = load_golden('head_nuscenes')
    head = build(num_decoder_layers=2).eval()
    ((preds,),) = head(golden['in/x'], METAS)
    single = build().eval()
    both = head.get_targets(recorded_gt(golden), [preds])
    for i, part in enumerate((slice(0, 20), slice(20, 40))):
        layer = {key: value[..., part] if value.shape[-1] == 40 else value for key, value in preds.items()}
        alone = single.get_targets(recorded_gt(golden), [layer])
        assert torch.equal(both.labels[:, part], alone.labels)
        assert torch.equal(both.bbox_targets[:, part], alone.bbox_targets)
    assert both.num_pos == 2 * alone.num_pos
    assert torch.equal(
        head.predict_by_feat(([preds],), METAS)[0].bboxes_3d.tensor, single.predict_by_feat(([layer],), METAS)[0].bboxes_3d.tensor
    )


def long_map_head(**overrides):
    """A head on 16 x 8 cells of 4.8 m x 2.4 m."""
    grid = dict(grid_size=[128, 64, 41], voxel_size=[0.6, 0.3, 0.2])
    return build(
        train_cfg=dict(grid, point_cloud_range=[-38.4, -9.6, -5.0, 38.4, 9.6, 3.0]),
        test_cfg=dict(grid, pc_range=[-38.4, -9.6]),
        bbox_coder=dict(pc_range=[-38.4, -9.6], voxel_size=[0.6, 0.3]),
        **overrides,
    )


def test_map_that_is_longer_than_wide_trains_and_predicts():
    head = long_map_head()
    boxes = torch.tensor([[30.0, 9.0, 0.0, 4.0, 2.0, 1.5, 0.0, 0.0, 0.0]])
    gt = instances(boxes, torch.tensor([3]))
    preds_dicts = head(torch.randn(2, 24, 16, 8), METAS)
    targets = head.get_targets([gt, gt], preds_dicts[0])
    assert (targets.heatmap[0] == 1).nonzero().tolist() == [[3, 14, 7]]
    total(head.loss_by_feat(preds_dicts, [gt, gt])).backward()
    assert head.eval().predict(torch.randn(2, 24, 16, 8), METAS)[0].bboxes_3d.tensor.shape[1] == 9


def test_query_starts_at_the_centre_of_its_cell():
    head = long_map_head(num_proposals=1, nms_kernel_size=1).eval()
    for prediction in head.prediction_heads[0].center:
        nn.init.zeros_(getattr(prediction, 'conv', prediction).weight)
    nn.init.zeros_(head.prediction_heads[0].center[-1].bias)
    ((preds,),) = head(torch.randn(1, 24, 16, 8))
    x, y = preds['dense_heatmap'].amax(1)[0].eq(preds['dense_heatmap'].amax()).nonzero()[0].tolist()
    assert preds['center'][0, :, 0].tolist() == [x + 0.5, y + 0.5]


@pytest.mark.parametrize('dataset, exempt', [('nuScenes', (8, 9)), ('Waymo', (1, 2)), ('mine', ())])
def test_proposals_are_local_maxima_except_of_small_classes(dataset, exempt, monkeypatch):
    head = build(test_cfg=dict(dataset=dataset), num_proposals=2560)
    chosen = []
    monkeypatch.setattr(transfusion_head, 'best_proposals', lambda *args: chosen.append(best_proposals(*args)) or chosen[0])
    ((preds,),) = head(torch.randn(1, head.shared_conv.in_channels, 16, 16))
    scores, (_, cells, kept) = preds['dense_heatmap'].detach().sigmoid(), chosen[0]
    peaks = torch.zeros(1, 10, 256).scatter(2, cells[:, None].expand(-1, 10, -1), kept).view(10, 16, 16)
    for label in range(10):
        if label in exempt:
            assert torch.equal(peaks[label], scores[0, label])
        else:
            assert not peaks[label, [0, -1]].any() and not peaks[label, :, [0, -1]].any()
            for x in range(1, 15):
                for y in range(1, 15):
                    window = scores[0, label, x - 1 : x + 2, y - 1 : y + 2]
                    assert peaks[label, x, y] == (window.max() if scores[0, label, x, y] == window.max() else 0)


def test_kernel_of_one_trains():
    golden = load_golden('head_nuscenes')
    head = build(nms_kernel_size=1)
    total(head.loss_by_feat(head(golden['in/x']), recorded_gt(golden))).backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in head.parameters())


def test_heuristic_assigner_is_recognised_by_what_it_is():
    golden = load_golden('head_nuscenes')
    head = build(train_cfg=dict(assigner=dict(type='bevfusion_plugin.HeuristicAssigner3D', dist_thre=0.5))).eval()
    ((preds,),) = head(golden['in/x'])
    boxes = head.bbox_coder.decode_boxes(*(preds[name] for name in ('rot', 'dim', 'center', 'height', 'vel')))[0].detach()
    label = preds['query_labels'][0, 3]
    boxes[3, 0] += 0.3
    targets = head.get_targets([instances(boxes[3:4], label[None]), no_gt()], [preds])
    assert targets.num_pos == 1 and targets.labels[0, 3] == label
    other_class = instances(boxes[3:4], (label[None] + 1) % 10)  # adds 0.5 m to the distance of 0.3 m
    assert head.get_targets([other_class, no_gt()], [preds]).num_pos == 0


@pytest.mark.parametrize('code_weights', [..., None])
def test_missing_code_weights_are_ones(code_weights):
    golden = load_golden('head_code8_noaux')  # recorded with ones
    head = build('head_code8_noaux', train_cfg=dict(code_weights=code_weights)).eval()
    head.load_state_dict(golden.group('sd/'))
    losses = head.loss_by_feat(head(golden['in/x']), recorded_gt(golden))
    assert_close(losses['layer_-1_loss_bbox'], golden['eval/loss/layer_-1_loss_bbox'], FORWARD)


def test_positive_weight_counts_for_matched_queries_only():
    golden = load_golden('head_nuscenes')
    head = build(train_cfg=dict(pos_weight=3)).eval()
    targets = head.get_targets(recorded_gt(golden), head(golden['in/x'])[0])
    assert torch.equal(targets.label_weights, torch.where(targets.labels < 10, 3, 1))


@pytest.mark.parametrize('name', TRAINED_HEADS)
def test_float64_trains(name):
    golden = load_golden(name)
    head = recorded(golden).double().eval()
    preds_dicts = head(golden['in/x'].double())
    assert preds_dicts[0][0]['center'].dtype == torch.float64
    losses = head.loss_by_feat(preds_dicts, recorded_gt(golden))
    assert_close(total(losses), golden['eval/loss/total'], FORWARD, 'total')
    total(losses).backward()


def test_bfloat16_autocast_trains_with_predictions_heatmap_and_losses_in_float32():
    golden = load_golden('head_nuscenes')
    head = build()
    head.init_weights()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        preds_dicts = head(golden['in/x'])
        losses = head.loss_by_feat(preds_dicts, recorded_gt(golden))
        detections = head.predict_by_feat(preds_dicts, METAS)
        expected = head.heatmap_head.eval()(head.shared_conv(golden['in/x']))  # autocast as it comes
    assert all(value.dtype in (torch.float32, torch.int64) for value in preds_dicts[0][0].values())
    assert all(value.dtype == torch.float32 for value in losses.values())
    assert detections[0].bboxes_3d.tensor.dtype == torch.float32
    assert expected.dtype == torch.bfloat16  # so the float32 above is the head's doing
    total(losses).backward()
    assert all(torch.isfinite(p.grad).all() for p in head.parameters())


def test_prediction_needs_no_training_config():
    cfg = dict(load_golden('head_nuscenes').meta['cfg'], train_cfg=None)
    golden = load_golden('head_nuscenes')
    assert len(build_nested(MODELS, cfg).eval().predict(golden['in/x'], METAS)) == 2


def test_predictions_without_a_centre_range_are_all_kept():
    golden = load_golden('head_nuscenes')
    head = build(bbox_coder=dict(post_center_range=None)).eval()
    assert [len(sample.scores_3d) for sample in head.predict(golden['in/x'], METAS)] == [20, 20]


def test_circle_nms_of_waymo_applies_to_every_class():
    golden = load_golden('head_nuscenes_circle_nms')
    head = build('head_nuscenes_circle_nms', test_cfg=dict(dataset='Waymo'), num_classes=3).eval()
    detections = head.predict(golden['in/x'], METAS)
    for sample in detections:
        centers = sample.bboxes_3d.tensor[:, :2]
        close = torch.cdist(centers, centers).square() <= 0.7
        same = sample.labels_3d[:, None] == sample.labels_3d[None]
        assert not (close & same).fill_diagonal_(False).any()
    everything = build('head_nuscenes_circle_nms', test_cfg=dict(dataset='Waymo', nms_type=None), num_classes=3).eval()
    everything.load_state_dict(head.state_dict())
    assert len(detections[0].scores_3d) < len(everything.predict(golden['in/x'], METAS)[0].scores_3d)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU: compares the head with the CPU')
def test_gpu_equals_cpu():
    golden = load_golden('head_nuscenes')
    head = recorded(golden).cuda().eval()
    losses = head.loss_by_feat(head(golden['in/x'].cuda()), recorded_gt(golden))
    assert_close(total(losses), golden['eval/loss/total'], 1e-4, 'total')
