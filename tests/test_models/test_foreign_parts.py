"""mmdet3d's own parts in our detector: they see voxels and maps as they do in mmdet3d, or are refused when the model is built."""

from __future__ import annotations

import copy

import pytest
import torch
from detector_goldens import recorded_batch
from goldens import load_golden
from mmdet3d.models.dense_heads import CenterHead
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope

from bevfusion_plugin.models.foreign_parts import transposed, zyx
from bevfusion_plugin.registry import MODELS, build_nested


@pytest.fixture(autouse=True)
def scope():
    """Where mmdet3d's parts look for theirs, whatever scope the training before left."""
    with DefaultScope.overwrite_default_scope('mmdet3d'):
        yield


GOLDEN = load_golden('e2e_lidar')


def grid():
    """Range, voxel size and cells (X, Y) of the recorded detector's map."""
    head = GOLDEN.meta['cfg']['bbox_head']
    return head['train_cfg'], [size // head['test_cfg']['out_size_factor'] for size in head['test_cfg']['grid_size'][:2]]


def center_head(**changes):
    train, _ = grid()
    settings = dict(
        out_size_factor=train['out_size_factor'],
        voxel_size=train['voxel_size'][:2],
        post_center_limit_range=[-99.0] * 3 + [99.0] * 3,
        nms_type='rotate',
        nms_thr=0.2,
        score_threshold=0.0,
        pre_max_size=50,
        post_max_size=9,
    )
    return dict(
        dict(
            type='CenterHead',
            in_channels=GOLDEN.meta['cfg']['bbox_head']['in_channels'],
            share_conv_channel=8,
            tasks=[dict(class_names=['car', 'truck']), dict(class_names=['bus'])],
            common_heads=dict(reg=(2, 2), height=(1, 2), dim=(3, 2), rot=(2, 2), vel=(2, 2)),
            separate_head=dict(type='SeparateHead', init_bias=-2.19, final_kernel=3),
            bbox_coder=dict(
                type='CenterPointBBoxCoder',
                pc_range=train['point_cloud_range'][:2],
                post_center_range=[-99.0] * 3 + [99.0] * 3,
                max_num=20,
                score_threshold=0.0,
                out_size_factor=train['out_size_factor'],
                voxel_size=train['voxel_size'][:2],
                code_size=9,
            ),
            loss_cls=dict(type='mmdet.GaussianFocalLoss', reduction='mean'),
            loss_bbox=dict(type='mmdet.L1Loss', reduction='mean', loss_weight=0.25),
            train_cfg=dict(train, dense_reg=1, max_objs=50, gaussian_overlap=0.1, min_radius=2, code_weights=[1.0] * 10),
            test_cfg=settings,
        ),
        **changes,
    )


def detector(**parts):
    torch.manual_seed(0)
    return build_nested(MODELS, ConfigDict(dict(copy.deepcopy(GOLDEN.meta['cfg']), **parts)))


def batch_of(model, training):
    batch = recorded_batch(GOLDEN)
    for sample in batch['data_samples']:
        sample.gt_instances_3d.labels_3d %= 3
    return model.data_preprocessor(batch, training)


def trained_step(model):
    data = batch_of(model.train(), True)
    loss, _ = model.parse_losses(model.loss(data['inputs'], data['data_samples']))
    loss.backward()
    assert loss.isfinite() and all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def predicted(model):
    data = batch_of(model.eval(), False)
    with torch.no_grad():
        return [sample.pred_instances_3d for sample in model.predict(data['inputs'], data['data_samples'])]


def test_mmdet3ds_center_head_trains_and_predicts():
    model = detector(bbox_head=center_head())
    trained_step(model)
    found = predicted(model)
    assert len(found) == GOLDEN.meta['B'] and all(len(each.bboxes_3d) for each in found)
    assert {label for each in found for label in each.labels_3d.tolist()} <= {0, 1, 2}


def test_mmdet3ds_center_head_sees_y_along_the_rows(monkeypatch):
    model, shapes = detector(bbox_head=center_head()), []
    monkeypatch.setattr(CenterHead, 'forward_single', lambda head, bev: shapes.append(bev) or (bev,))
    data = batch_of(model.eval(), False)
    model(data['inputs'], data['data_samples'], mode='tensor')
    ours = model.extract_feat(data['inputs'], [])[0]
    x_cells, y_cells = grid()[1]
    assert shapes[0].shape[2:] == (y_cells, x_cells) and torch.equal(transposed(shapes[0]), ours)


def test_a_center_head_that_is_right_about_its_targets_predicts_the_boxes_of_the_data(monkeypatch):
    """Its own targets, handed to it as predictions on the map it sees, come back as the boxes in the lidar frame."""
    model = detector(bbox_head=center_head())
    data = batch_of(model, True)
    head, samples = model.bbox_head, data['data_samples']
    heatmaps, boxes, indices, masks = head.get_targets([sample.gt_instances_3d for sample in samples])
    x_cells, y_cells = grid()[1]

    def painted(task):
        maps = torch.zeros(len(samples), 10, y_cells * x_cells)
        for index, (code, cell, kept) in enumerate(zip(boxes[task], indices[task], masks[task].bool())):
            maps[index, :, cell[kept]] = code[kept].T
        maps = maps.unflatten(2, (y_cells, x_cells))
        names = dict(reg=(0, 2), height=(2, 3), dim=(3, 6), rot=(6, 8), vel=(8, 10))
        logits = torch.where(heatmaps[task] == 1, 9.0, -9.0)
        return dict({name: maps[:, slice(*span)] for name, span in names.items()}, heatmap=logits)

    monkeypatch.setattr(head, 'forward', lambda feats: ([painted(0)], [painted(1)]))
    for sample in model.predict(data['inputs'], samples):
        found = sample.pred_instances_3d
        found, truth = found.bboxes_3d[found.scores_3d > 0.5], sample.gt_instances_3d.bboxes_3d
        inside = ((truth.gravity_center[:, :2].abs() < model.voxelize_cfg['point_cloud_range'][3]).all(1)).sum()
        assert len(found) and len(found) <= inside
        gaps = torch.cdist(found.gravity_center, truth.gravity_center).min(1).values
        assert gaps.max() < 1e-3


def test_mmdet3ds_anchor_head_trains_and_predicts():
    bounds = grid()[0]['point_cloud_range']
    low, high, channels = bounds[:3], bounds[3:], GOLDEN.meta['cfg']['bbox_head']['in_channels']
    assigner = dict(
        type='Max3DIoUAssigner',
        iou_calculator=dict(type='BboxOverlapsNearest3D', coordinate='lidar'),
        pos_iou_thr=0.3,
        neg_iou_thr=0.2,
        min_pos_iou=0.1,
        ignore_iof_thr=-1,
    )
    model = detector(
        bbox_head=dict(
            type='Anchor3DHead',
            num_classes=3,
            in_channels=channels,
            feat_channels=channels,
            assign_per_class=False,
            use_direction_classifier=True,
            dir_offset=0.7854,
            anchor_generator=dict(
                type='AlignedAnchor3DRangeGenerator',
                ranges=[[*low[:2], -1.8, *high[:2], -1.8]],
                sizes=[[4.0, 2.0, 1.5]],
                custom_values=[0, 0],
                rotations=[0, 1.57],
                reshape_out=True,
            ),
            bbox_coder=dict(type='DeltaXYZWLHRBBoxCoder', code_size=9),
            loss_cls=dict(type='mmdet.FocalLoss', use_sigmoid=True),
            loss_bbox=dict(type='mmdet.SmoothL1Loss'),
            loss_dir=dict(type='mmdet.CrossEntropyLoss', use_sigmoid=False),
            train_cfg=dict(assigner=assigner, allowed_border=0, code_weight=[1.0] * 9, pos_weight=-1),
            test_cfg=dict(use_rotate_nms=True, nms_across_levels=False, nms_pre=50, nms_thr=0.2, score_thr=0.0, min_bbox_size=0, max_num=9),
        )
    )
    trained_step(model)
    assert all(1 <= len(each.bboxes_3d) <= 9 for each in predicted(model))


def test_pillars_of_mmdet3d_give_a_map_with_x_first():
    x_cells, y_cells = grid()[1]
    cfg = copy.deepcopy(GOLDEN.meta['cfg'])
    voxelize = cfg['data_preprocessor']['voxelize_cfg']
    bounds = voxelize['point_cloud_range']
    sizes = [(bounds[3] - bounds[0]) / x_cells, (bounds[4] - bounds[1]) / y_cells, bounds[5] - bounds[2]]
    voxelize.update(voxel_size=sizes, voxelize_reduce=False)
    cfg['pts_backbone']['in_channels'] = 6
    features = len(load_golden('e2e_lidar').series('in/points')[0][0])
    model = detector(
        data_preprocessor=cfg['data_preprocessor'],
        pts_backbone=cfg['pts_backbone'],
        pts_voxel_encoder=dict(
            type='PillarFeatureNet', in_channels=features, feat_channels=[6], voxel_size=sizes, point_cloud_range=bounds
        ),
        pts_middle_encoder=dict(type='PointPillarsScatter', in_channels=6, output_shape=[y_cells, x_cells]),
    )
    trained_step(model)
    point = torch.zeros(1, features)
    point[0, 0], point[0, 1] = bounds[0] + 1.5 * sizes[0], bounds[1] + 4.5 * sizes[1]  # cell 1 along x, 4 along y
    bev = model.eval().extract_pts_feat(dict(points=[point]))
    assert bev.shape[2:] == (x_cells, y_cells) and bev[0].any(0).nonzero().tolist() == [[1, 4]]


def test_voxels_are_turned_round():
    assert zyx(torch.tensor([[7, 1, 2, 3]])).tolist() == [[7, 3, 2, 1]]


@pytest.mark.parametrize(
    'part, cfg, message',
    [
        (
            'bbox_head',
            dict(
                type='PointRPNHead',
                num_classes=3,
                train_cfg={},
                test_cfg={},
                pred_layer_cfg=dict(in_channels=4, cls_linear_channels=(4,), reg_linear_channels=(4,)),
                bbox_loss=dict(type='mmdet.L1Loss'),
                cls_loss=dict(type='mmdet.L1Loss'),
                bbox_coder=dict(type='PointXYZWHLRBBoxCoder', use_mean_size=False),
            ),
            'bbox_head cannot be PointRPNHead: .*take bevfusion_plugin.TransFusionHead, or of mmdet3d.s CenterHead, Anchor3DHead',
        ),
        (
            'pts_middle_encoder',
            dict(type='SparseEncoder', in_channels=5, sparse_shape=[41, 40, 40]),
            'pts_middle_encoder cannot be SparseEncoder: .*take bevfusion_plugin.BEVFusionSparseEncoder, or of mmdet3d.s PointPillarsScatter',
        ),
        (
            'pts_voxel_encoder',
            dict(type='DynamicSimpleVFE', voxel_size=[1, 1, 1], point_cloud_range=[0, 0, 0, 1, 1, 1]),
            'pts_voxel_encoder cannot be DynamicSimpleVFE',
        ),
    ],
)
def test_other_parts_of_mmdet3d_are_refused_when_the_model_is_built(part, cfg, message):
    with pytest.raises(ValueError, match=message):
        detector(**{part: cfg})
