"""Settings, maps and predictions that TransFusion's head refuses."""

import pytest
import torch
from goldens import load_golden
from recorded_heads import build, instances, no_gt, recorded_gt


@pytest.mark.parametrize(
    'changes, message',
    [
        (dict(nms_kernel_size=2), 'nms_kernel_size must be odd, >= 1 .* got 2'),
        (dict(nms_kernel_size=0), 'nms_kernel_size must be an int from 1 .* got 0'),
        (dict(nms_kernel_size=17), r'at most the map size \(16, 16\), got 17'),
        (dict(test_cfg=dict(nms_type='rotate')), "nms_type must be None or 'circle', got 'rotate'"),
        (dict(test_cfg=dict(nms_type='circle', dataset='mine')), "radii for .'Waymo', 'nuScenes'., got dataset='mine'"),
        (dict(num_classes=3), r"dataset='nuScenes' treats classes \(8, 9\) .* got num_classes=3"),
        (dict(num_proposals=2561), r'num_proposals=2561 exceeds the 10 classes x \(16, 16\) cells'),
        (
            dict(common_heads=dict(center=[2, 2], height=[1, 2], dim=[3, 2], rot=[2, 2])),
            'common_heads give a box code of 8 numbers .* got bbox_coder.code_size=10',
        ),
        (dict(loss_cls=dict(type='mmdet.FocalLoss', use_sigmoid=False)), 'loss_cls.use_sigmoid must be True .* got False'),
        (dict(train_cfg=dict(grid_size=[128, 64, 41])), r'train_cfg gives a BEV map of \(16, 8\) cells'),
        (dict(train_cfg=dict(pos_weight=0.5)), 'pos_weight must be a whole number .* got 0.5'),
        (dict(train_cfg=dict(code_weights=[1.0] * 8)), 'code_weights must have 10 numbers.* got 8'),
    ],
)
def test_settings_that_cannot_work_are_refused_at_construction(changes, message):
    with pytest.raises(ValueError, match=message):
        build(**changes)


@pytest.mark.parametrize(
    'feats, message',
    [
        (torch.zeros(1, 24, 16, 15), r'expected a BEV map of \(16, 16\) cells .* got \(16, 15\)'),
        ([torch.zeros(1, 24, 16, 16)] * 2, 'takes one BEV map, got 2'),
    ],
)
def test_maps_of_another_size_or_number_are_refused(feats, message):
    with pytest.raises(ValueError, match=message):
        build()(feats)


@pytest.mark.parametrize(
    'name, term, bad, of',
    [('heatmap', 'cls_cost', 80, 80), ('center', 'reg_cost', 80, 80), ('rot', r'iou_cost \(predicted boxes\)', 20, 20)],
)
def test_diverged_predictions_of_any_sample_name_the_cost_in_the_loss(name, term, bad, of):
    golden = load_golden('head_nuscenes')
    head = build()
    ((preds,),) = head(golden['in/x'])
    preds[name] = torch.cat([preds[name][:1], preds[name][1:] * torch.nan])
    first, second = recorded_gt(golden)
    truth = [first, instances(second.bboxes_3d.tensor[:4], second.labels_3d[:4])]
    with pytest.raises(ValueError, match=f'{term} of the matching has {bad} NaN or infinite values out of {of}: .* has diverged'):
        head.loss_by_feat(([preds],), truth)


def test_diverged_predictions_of_a_sample_without_boxes_are_left_to_the_loss():
    golden = load_golden('head_nuscenes')
    head = build()
    ((preds,),) = head(golden['in/x'])
    preds['rot'] = torch.cat([preds['rot'][:1], preds['rot'][1:] * torch.nan])
    targets = head.get_targets([recorded_gt(golden)[0], no_gt()], [preds])
    assert (targets.labels[1] == head.num_classes).all() and targets.ious.isfinite().all()
