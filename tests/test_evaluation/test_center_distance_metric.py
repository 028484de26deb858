"""CenterDistanceMetric on predictions whose scores follow from the definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from goldens import nuscenes_sample
from mmdet3d.datasets import NuScenesDataset
from mmdet3d.structures import Det3DDataSample, LiDARInstance3DBoxes
from mmengine.evaluator import Evaluator
from mmengine.structures import InstanceData
from toy_training import ToyData, toy_runner

from bevfusion_plugin.evaluation import center_distance_metric
from bevfusion_plugin.registry import METRICS

CLASSES = ['car', 'truck', 'construction_vehicle', 'bus', 'trailer', 'barrier', 'motorcycle', 'bicycle', 'pedestrian', 'traffic_cone']
CENTERS = torch.tensor([[10.0, 0, 0], [0.0, 12, 0], [-14.0, 0, 0], [0.0, -16, 0]])  # far apart and within every range
LABELS = torch.tensor([0, 0, 5, 5])


def boxes_at(centers: torch.Tensor) -> LiDARInstance3DBoxes:
    rest = torch.tensor([4.0, 2, 1.5, 0.3, 1, 0]).expand(len(centers), 6)
    return LiDARInstance3DBoxes(torch.cat([centers, rest], 1), box_dim=9, origin=(0.5, 0.5, 0.5))


def sample(centers=CENTERS, labels=LABELS, scores=None, gt_centers=CENTERS, gt_labels=LABELS, points=None, **truth):
    """A data sample that predicts ``labels`` at ``centers``, with ground truth as a test-mode data set gives it."""
    scores = torch.linspace(0.9, 0.5, len(labels)) if scores is None else torch.tensor(scores)
    points = np.full(len(gt_labels), 20) if points is None else np.array(points)
    made = Det3DDataSample(metainfo=dict(sample_idx=0))
    made.pred_instances_3d = InstanceData(bboxes_3d=boxes_at(centers), labels_3d=labels, scores_3d=scores)
    made.gt_instances_3d = InstanceData(**truth)
    made.eval_ann_info = None if truth else dict(gt_bboxes_3d=boxes_at(gt_centers), gt_labels_3d=gt_labels.numpy(), num_lidar_pts=points)
    return made


def evaluate(*samples: Det3DDataSample, classes=CLASSES, **cfg) -> dict[str, float]:
    evaluator = Evaluator(dict(type='bevfusion_plugin.CenterDistanceMetric', **cfg))
    evaluator.dataset_meta = dict(classes=classes)
    evaluator.process(data_samples=list(samples))
    scores = evaluator.evaluate(len(samples))
    return {name.removeprefix('center_distance/'): value for name, value in scores.items()}


def test_ground_truth_fed_back_scores_one():
    scores = evaluate(sample(), sample())
    assert scores['mAP'] == pytest.approx(1.0) and scores['recall@2m'] == 1.0
    assert {name.split('_AP')[0] for name in scores if '_AP_dist_' in name} == {'car', 'barrier'}


def test_boxes_shifted_by_a_metre_and_a_half_count_only_at_two_and_four_metres():
    scores = evaluate(sample(centers=CENTERS + torch.tensor([1.5, 0, 0])))
    assert [scores[f'car_AP_dist_{distance}'] for distance in (0.5, 1.0, 2.0, 4.0)] == pytest.approx([0, 0, 1, 1])
    assert scores['mAP'] == pytest.approx(0.5) and scores['recall@2m'] == 1.0


def test_height_does_not_matter():
    assert evaluate(sample(centers=CENTERS + torch.tensor([0, 0, 1.5])))['mAP'] == pytest.approx(1.0)


def test_wrong_class_scores_zero():
    scores = evaluate(sample(labels=5 - LABELS))
    assert scores['mAP'] == 0.0 and scores['recall@2m'] == 0.0


def test_half_missing_gives_half_the_recall():
    scores = evaluate(sample(centers=CENTERS[::2], labels=LABELS[::2]))
    assert scores['recall@2m'] == 0.5
    # precision 1 up to recall 0.5: (40 of 90 recall bins above 0.1) x (1 - 0.1) / (1 - 0.1)
    assert scores['mAP'] == pytest.approx(40 / 90)


def test_empty_predictions_score_zero():
    scores = evaluate(sample(centers=CENTERS[:0], labels=LABELS[:0]))
    assert scores['mAP'] == 0.0 and scores['recall@2m'] == 0.0


def test_frame_without_ground_truth_has_no_score_of_its_own_but_costs_precision():
    empty = dict(gt_centers=CENTERS[:0], gt_labels=LABELS[:0])
    alone = evaluate(sample(**empty))
    assert math.isnan(alone['mAP']) and math.isnan(alone['recall@2m'])
    assert evaluate(sample(), sample(scores=[0.99] * 4, **empty))['mAP'] < 0.8


def test_a_false_positive_of_higher_score_costs_precision():
    centers = torch.cat([torch.tensor([[30.0, 30, 0]]), CENTERS])
    scores = evaluate(sample(centers=centers, labels=torch.cat([LABELS[:1], LABELS])))
    assert 0.2 < scores['car_AP_dist_2.0'] < 1.0 and scores['barrier_AP_dist_2.0'] == pytest.approx(1.0)
    assert scores['recall@2m'] == 1.0


def test_one_prediction_finds_one_box_only():
    close = torch.tensor([[10.0, 0, 0], [10.5, 0, 0]])
    truth = dict(gt_centers=close, gt_labels=LABELS[:2])
    assert evaluate(sample(centers=close[:1], labels=LABELS[:1], **truth))['recall@2m'] == 0.5
    assert evaluate(sample(centers=close, labels=LABELS[:2], **truth))['recall@2m'] == 1.0


def test_recall_asks_for_a_score_points_and_the_range():
    scores = [0.9, 0.2, 0.9, 0.9]
    assert evaluate(sample(scores=scores))['recall@2m'] == 0.75
    assert evaluate(sample(scores=scores), score_thr=0.1)['recall@2m'] == 1.0
    assert evaluate(sample(scores=scores, points=[20, 3, 20, 20]))['recall@2m'] == 1.0
    assert evaluate(sample(scores=scores), point_cloud_range=[-54, -54, -5, 54, 11, 3])['recall@2m'] == 1.0


def test_boxes_without_points_beyond_the_class_range_or_labelled_minus_one_do_not_count_for_map():
    far = torch.tensor([[51.0, 0, 0], [0.0, 12, 0], [-31.0, 0, 0], [0.0, -16, 0]])  # car: 50 m, barrier: 30 m
    few = dict(centers=far[1::2], labels=LABELS[1::2])
    assert evaluate(sample(gt_centers=far, **few))['mAP'] == pytest.approx(1.0)
    assert evaluate(sample(points=[0, 9, 0, 9], **few))['mAP'] == pytest.approx(1.0)
    assert evaluate(sample(gt_labels=torch.tensor([-1, 0, -1, 5]), **few))['mAP'] == pytest.approx(1.0)


def test_packed_ground_truth_serves_where_there_is_no_eval_ann_info():
    scores = evaluate(sample(bboxes_3d=boxes_at(CENTERS), labels_3d=LABELS))
    assert scores['mAP'] == pytest.approx(1.0) and scores['recall@2m'] == 1.0


def test_missing_ground_truth_says_which_dataset_option_brings_it():
    bare = sample()
    bare.eval_ann_info = None
    with pytest.raises(ValueError, match='sample 0 has no ground truth.*test_mode=True'):
        evaluate(bare)


def test_classes_of_ones_own_are_scored_within_the_default_range():
    far = torch.tensor([[49.0, 0, 0], [51.0, 0, 0]])
    truth = dict(gt_centers=far, gt_labels=torch.tensor([0, 1]), centers=far[:1], labels=torch.tensor([0]))
    scores = evaluate(sample(**truth), classes=['tram', 'cow'])
    assert scores['mAP'] == pytest.approx(1.0) and 'tram_AP_dist_2.0' in scores and 'cow_AP_dist_2.0' not in scores
    assert evaluate(sample(**truth), classes=['tram', 'cow'], default_range=60)['mAP'] == pytest.approx(0.5)


def test_the_range_of_a_class_can_be_set():
    truth = dict(gt_centers=CENTERS, gt_labels=torch.tensor([0, 0, 1, 1]), centers=CENTERS, labels=torch.tensor([0, 0, 1, 1]))
    assert 'cow_AP_dist_2.0' not in evaluate(sample(**truth), classes=['car', 'cow'], class_range=dict(cow=13))
    assert 'car_AP_dist_2.0' not in evaluate(sample(**truth), classes=['car', 'cow'], class_range=dict(car=9.0))


@pytest.mark.parametrize(
    'meta, message',
    [
        (dict(classes=['tram', 'cow']), 'class_range names bus, and the data set has tram, cow'),
        (dict(), "needs the names of the classes, got None as metainfo.classes"),
        (dict(classes=[]), r"got \[\] as metainfo.classes"),
        (dict(classes='car'), "got 'car'"),
        (dict(classes=[1, 2]), r'got \[1, 2\]'),
    ],
)
def test_what_cannot_be_scored_is_refused_when_the_validation_loop_is_built(meta, message):
    metric = METRICS.build(dict(type='bevfusion_plugin.CenterDistanceMetric', class_range=dict(bus=40)))
    with pytest.raises(ValueError, match=message):
        Evaluator(metric).dataset_meta = meta


def test_a_label_without_a_class_is_named_with_its_sample():
    with pytest.raises(ValueError, match=r'sample 0 has the label 5, and the data set 3 classes \(car, truck, bus\); let num_classes'):
        evaluate(sample(), classes=['car', 'truck', 'bus'])


def test_a_run_whose_data_set_has_no_classes_stops_before_its_first_iteration(tmp_path):
    data = ToyData()
    data.METAINFO = dict(version='mine')
    loader = dict(batch_size=2, num_workers=0, dataset=data, sampler=dict(type='DefaultSampler', shuffle=False))
    runner = toy_runner(tmp_path, val_dataloader=loader, val_cfg=dict(), val_evaluator=dict(type='bevfusion_plugin.CenterDistanceMetric'))
    with pytest.raises(ValueError, match='needs the names of the classes'):
        runner.train()
    assert runner.iter == 0


def test_prints_a_row_for_every_class_that_occurs(monkeypatch):
    printed = []
    monkeypatch.setattr(center_distance_metric, 'print_log', lambda text, logger: printed.append(text))
    evaluate(sample())
    first_words = [row.split()[1] for row in printed[0].splitlines() if row.startswith('|')]
    assert first_words == ['class', 'car', 'barrier', 'all'] and 'AP@0.5m' in printed[0]


def test_real_frame_fed_back_scores_one():
    data = NuScenesDataset(
        data_root=str(nuscenes_sample()),
        ann_file='nuscenes_infos_val.pkl',
        test_mode=True,
        metainfo=dict(classes=CLASSES),
        data_prefix=dict(pts='samples/LIDAR_TOP'),
        pipeline=[dict(type='mmdet3d.Pack3DDetInputs', keys=[], meta_keys=['sample_idx'])],
    )
    made = data[0]['data_samples']
    truth = made.eval_ann_info
    labels = torch.from_numpy(truth['gt_labels_3d'])
    made.pred_instances_3d = InstanceData(
        bboxes_3d=truth['gt_bboxes_3d'][labels >= 0], labels_3d=labels[labels >= 0], scores_3d=torch.ones(int((labels >= 0).sum()))
    )
    scores = evaluate(made)
    assert scores['mAP'] == pytest.approx(1.0) and scores['recall@2m'] == 1.0
    made.pred_instances_3d = made.pred_instances_3d[::2]
    assert evaluate(made)['recall@2m'] == pytest.approx(0.5, abs=0.1)
