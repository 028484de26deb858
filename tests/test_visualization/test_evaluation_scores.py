import math

import pytest

from bevfusion_plugin.visualization.evaluation_scores import (
    class_precisions,
    class_table,
    headline,
    mean_errors,
    overall_scores,
    short_names,
)

PREFIX = 'pred_instances_3d_NuScenes/'
NUSCENES = {
    f'{PREFIX}{name}': value
    for name, value in {
        'car_AP_dist_0.5': 0.7,
        'car_AP_dist_1.0': 0.8,
        'car_AP_dist_2.0': 0.9,
        'car_AP_dist_4.0': 1.0,
        'car_trans_err': 0.2,
        'traffic_cone_AP_dist_0.5': 0.5,
        'traffic_cone_orient_err': math.nan,
        'mATE': 0.3,
        'mAAE': 0.1,
        'NDS': 0.714,
        'mAP': 0.686,
    }.items()
} | dict(time=1.0, data_time=0.1)


def test_nuscenes_metrics_are_sorted_by_what_they_say():
    assert overall_scores(NUSCENES) == dict(NDS=0.714, mAP=0.686)
    assert mean_errors(NUSCENES) == dict(mATE=0.3, mAAE=0.1)
    assert class_table(NUSCENES)['car'] == {'AP@0.5': 0.7, 'AP@1.0': 0.8, 'AP@2.0': 0.9, 'AP@4.0': 1.0, 'trans err': 0.2}
    assert list(class_table(NUSCENES)) == ['car', 'traffic_cone']


def test_the_precision_of_a_class_is_the_mean_over_its_distances():
    assert class_precisions(NUSCENES) == {'car': pytest.approx(0.85), 'traffic_cone': 0.5}


def test_every_metric_has_one_place():
    found = len(overall_scores(NUSCENES)) + len(mean_errors(NUSCENES)) + sum(map(len, class_table(NUSCENES).values()))
    assert found == len(NUSCENES) - 2  # without the two times


@pytest.mark.parametrize(
    'name, kind',
    [
        ('coco/bbox_mAP', 'overall'),
        ('coco/bbox_mAP_50', 'overall'),
        ('mAP_0.25', 'overall'),
        ('accuracy/top1', 'overall'),
        ('center_distance/recall@2m', 'overall'),
        ('loss', 'overall'),
        ('bed_AP_0.25', 'class'),
        ('coco/car_precision', 'class'),
        ('Kitti/Car_3D_AP11_easy_strict', 'class'),
    ],
)
def test_metrics_of_other_benchmarks_find_a_place(name, kind):
    assert bool(overall_scores({name: 0.5})) == (kind == 'overall')
    assert bool(class_precisions({name: 0.5})) == (kind == 'class')


def test_a_prefix_stays_where_two_evaluators_give_the_same_name():
    assert short_names({'a/mAP': 0.1, 'b/mAP': 0.2, 'b/NDS': 0.3}) == {'a/mAP': 0.1, 'b/mAP': 0.2, 'NDS': 0.3}


def test_the_headline_takes_another_benchmarks_map_only_without_a_plain_one():
    assert headline(NUSCENES) == dict(mAP=0.686, NDS=0.714)
    assert headline({'coco/bbox_mAP': 0.4}) == dict(mAP=0.4)
    assert headline({'coco/bbox_mAP': 0.4, 'x/mAP': 0.6}) == dict(mAP=0.6)
    assert headline({'accuracy/top1': 0.7}) == {}
