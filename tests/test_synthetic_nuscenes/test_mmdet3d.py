"""The synthetic nuScenes through mmdet3d's own converter, dataset, samplers and metric, all unpatched."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet3d.datasets import CBGSDataset, NuScenesDataset
from mmdet3d.evaluation import NuScenesMetric as MMDet3DNuScenesMetric
from mmdet3d.structures import LiDARInstance3DBoxes
from nuscenes import NuScenes
from nuscenes.eval.common.config import config_factory
from nuscenes.eval.common.loaders import add_center_dist, filter_eval_boxes, load_gt
from nuscenes.eval.detection.data_classes import DetectionBox

from bevfusion_plugin.evaluation import NuScenesMetric, nuscenes_metric
from bevfusion_plugin.synthetic_nuscenes import (
    CAMERAS,
    CLASSES,
    KEYFRAME_PERIOD,
    LIDAR,
    Settings,
    build_scene,
    create_synthetic_nuscenes,
    sensor_view,
    simulate_keyframe,
)
from bevfusion_plugin.synthetic_nuscenes.raycast import View

SETTINGS = Settings(scenes=2, samples_per_scene=3, image_scale=0.25, sweeps=1, azimuth_steps=540)
VAL_SCENE = 1
NAMES = [item.name for item in CLASSES]
PREPARE = Path(__file__).parents[2] / 'tools' / 'prepare_nuscenes.py'
PREFIX = dict(pts='samples/LIDAR_TOP', sweeps='sweeps/LIDAR_TOP', **{name: f'samples/{name}' for name in CAMERAS})


@pytest.fixture(scope='module')
def root(tmp_path_factory) -> Path:
    # 'samples' in the name: mmdet3d looks for that word in the path of a sweep
    folder = tmp_path_factory.mktemp('samples_of_nuscenes') / 'data'
    create_synthetic_nuscenes(folder, SETTINGS)
    done = subprocess.run(
        [sys.executable, str(PREPARE), str(folder), '--version', 'v1.0-mini'], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope='module')
def lidar_views() -> list[View]:
    """What the lidar has before it in each validation sample."""
    world, rig = build_scene(SETTINGS, VAL_SCENE)
    return [sensor_view(world, rig[LIDAR], sample * KEYFRAME_PERIOD) for sample in range(SETTINGS.samples_per_scene)]


@pytest.fixture(scope='module')
def nusc(root) -> NuScenes:
    return NuScenes('v1.0-mini', str(root), verbose=False)


def build_dataset(root: Path, split: str, pipeline: list = [], **kwargs) -> NuScenesDataset:
    return NuScenesDataset(
        data_root=str(root),
        ann_file=f'nuscenes_infos_{split}.pkl',
        data_prefix=dict(PREFIX),
        modality=dict(use_lidar=True, use_camera=True),
        metainfo=dict(version='v1.0-mini'),
        pipeline=pipeline,
        test_mode=split == 'val',
        **kwargs,
    )


def test_infos_name_files_that_are_there_and_every_earlier_sweep(root):
    dataset = build_dataset(root, 'train')
    assert len(dataset) == 3 and dataset.metainfo['version'] == 'v1.0-mini'
    for sample in range(3):
        info = dataset.get_data_info(sample)
        sweeps = info.get('lidar_sweeps', [])
        assert len(sweeps) == 2 * sample  # one sweep and one keyframe for each step back
        files = [
            info['lidar_path'],
            *(sweep['lidar_points']['lidar_path'] for sweep in sweeps),
            *(image['img_path'] for image in info['images'].values()),
        ]
        assert len(files) == 7 + 2 * sample and all(Path(file).is_file() for file in files)
        assert not any('data/nuscenes' in file for file in files)


def test_boxes_of_the_dataset_are_those_of_the_world(root):
    dataset = build_dataset(root, 'val')
    world, rig = build_scene(SETTINGS, VAL_SCENE)
    for sample in range(3):
        view = sensor_view(world, rig[LIDAR], sample * KEYFRAME_PERIOD)
        counts = simulate_keyframe(SETTINGS, VAL_SCENE, sample, world, rig).num_lidar_pts
        expected = np.flatnonzero(counts)
        found = dataset.get_data_info(sample)['eval_ann_info']
        boxes = found['gt_bboxes_3d']
        assert np.array_equal(found['gt_labels_3d'], world.labels[expected])
        assert np.allclose(boxes.gravity_center, view.centers[expected], atol=1e-3)
        assert np.allclose(boxes.dims, world.sizes[expected], atol=1e-4)
        along = np.stack([np.cos(boxes.yaw), np.sin(boxes.yaw)], axis=1)
        assert np.allclose(along, view.axes[expected][:, :2, 0], atol=1e-3)
        velocities = np.pad(world.velocities[expected], ((0, 0), (0, 1))) @ view.rotation
        assert np.allclose(boxes.tensor[:, 7:], velocities[:, :2], atol=1e-4)


def test_corners_through_lidar2img_bound_the_silhouettes_to_a_pixel(root):
    info = build_dataset(root, 'val').get_data_info(1)
    world, rig = build_scene(SETTINGS, VAL_SCENE)
    keyframe = simulate_keyframe(SETTINGS, VAL_SCENE, 1, world, rig)
    view, checked = sensor_view(world, rig[LIDAR], KEYFRAME_PERIOD), 0
    limits = np.array(SETTINGS.image_size) - 0.5
    for channel, picture in keyframe.pictures.items():
        image = info['images'][channel]
        lidar2img = np.array(image['cam2img']) @ np.array(image['lidar2cam'])[:3]
        for index in np.flatnonzero((picture.visible == picture.unoccluded) & (picture.visible > 0)):
            projected = view.corners(index) @ lidar2img[:, :3].T + lidar2img[:, 3]
            pixels = projected[:, :2] / projected[:, 2:]
            if projected[:, 2].min() < 0.2 or (pixels < 0).any() or (pixels > limits).any():
                continue
            rows, columns = np.nonzero(picture.owner == index)
            found = [columns.min() - 0.5, rows.min() - 0.5, columns.max() + 0.5, rows.max() + 0.5]
            assert np.abs(np.r_[pixels.min(axis=0), pixels.max(axis=0)] - found).max() < 1
            checked += 1
    assert checked >= 10


def test_ground_truth_database_holds_every_class(root):
    with open(root / 'nuscenes_dbinfos_train.pkl', 'rb') as file:
        database = pickle.load(file)
    assert set(database) == set(NAMES)
    for entries in database.values():
        for entry in entries:
            points = np.fromfile(root / entry['path'], dtype=np.float32).reshape(-1, 5)
            assert len(points) == entry['num_points_in_gt'] > 0


def test_object_sample_and_cbgs_run_on_it(root, monkeypatch):
    # mmdet3d 1.4.0's DataBaseSampler asks for np.long, which NumPy 1.24 to 1.26 do not have
    monkeypatch.setattr(np, 'long', np.int64, raising=False)
    points = [
        dict(type='mmdet3d.LoadPointsFromFile', coord_type='LIDAR', load_dim=5, use_dim=5),
        dict(type='mmdet3d.LoadPointsFromMultiSweeps', sweeps_num=2, load_dim=5, use_dim=5, pad_empty_sweeps=True, remove_close=True),
        dict(type='mmdet3d.LoadAnnotations3D', with_bbox_3d=True, with_label_3d=True),
    ]
    sampler = dict(
        type='mmdet3d.DataBaseSampler',
        data_root=str(root),
        rate=1.0,
        info_path=str(root / 'nuscenes_dbinfos_train.pkl'),
        prepare=dict(filter_by_difficulty=[-1], filter_by_min_points=dict.fromkeys(NAMES, 1)),
        classes=NAMES,
        sample_groups=dict.fromkeys(NAMES, 8),
        points_loader=points[0],
    )
    pack = dict(type='mmdet3d.Pack3DDetInputs', keys=['points', 'gt_bboxes_3d', 'gt_labels_3d'])
    images = dict(type='mmdet3d.LoadMultiViewImageFromFiles')
    np.random.seed(0)
    plain = build_dataset(root, 'train', [images, *points, pack], use_valid_flag=True)
    pasted = [*points, dict(type='mmdet3d.ObjectSample', db_sampler=sampler), pack]
    sampled = build_dataset(root, 'train', pasted, use_valid_flag=True)
    before, after = (dataset[2]['data_samples'].gt_instances_3d for dataset in (plain, sampled))
    assert len(after) > len(before) > 10 and set(after.labels_3d.tolist()) == set(range(10))
    balanced = CBGSDataset(build_dataset(root, 'train', [*points, pack]))
    assert len(balanced) >= 10 and len(balanced[0]['data_samples'].gt_instances_3d) > 0


@pytest.fixture(scope='module')
def truth(root) -> list[dict]:
    """Ground truth of the validation samples in the form of predictions."""
    dataset = build_dataset(root, 'val')
    found = [dataset.get_data_info(sample)['eval_ann_info'] for sample in range(len(dataset))]
    return [
        dict(
            bboxes_3d=item['gt_bboxes_3d'],
            labels_3d=torch.from_numpy(item['gt_labels_3d']),
            scores_3d=torch.linspace(0.9, 0.5, len(item['gt_labels_3d'])),
        )
        for item in found
    ]


def score(root: Path, predictions: list[dict], kind: type = MMDet3DNuScenesMetric) -> dict[str, float]:
    """What NuScenesMetric (official DetectionEval, mini_val) says, without the prefix of its keys."""
    metric = kind(data_root=str(root), ann_file=str(root / 'nuscenes_infos_val.pkl'), modality=dict(use_lidar=True, use_camera=True))
    metric.dataset_meta = dict(classes=NAMES, version='v1.0-mini')
    metric.process(
        {}, [dict(pred_instances_3d=dict(item), pred_instances={}, sample_idx=number) for number, item in enumerate(predictions)]
    )
    return {key.split('/')[-1]: value for key, value in metric.evaluate(len(predictions)).items()}


def average_precision(scores: dict[str, float], name: str) -> float:
    return float(np.mean([scores[f'{name}_AP_dist_{distance}'] for distance in (0.5, 1.0, 2.0, 4.0)]))


def test_ground_truth_scores_one_in_every_class(root, truth):
    scores = score(root, truth)
    assert [average_precision(scores, name) for name in NAMES] == [1.0] * 10
    assert scores['mAP'] == pytest.approx(1.0) and scores['NDS'] > 0.99
    assert max(scores[f'm{name}E'] for name in ('AT', 'AS', 'AO', 'AV', 'AA')) < 0.01


def test_boxes_moved_by_70_cm_fail_at_the_half_metre_threshold_only(root, truth):
    aside = torch.tensor([0.7] + 8 * [0.0])
    moved = [dict(item, bboxes_3d=LiDARInstance3DBoxes(item['bboxes_3d'].tensor + aside, box_dim=9)) for item in truth]
    scores = score(root, moved)
    assert scores['pedestrian_AP_dist_0.5'] == scores['truck_AP_dist_0.5'] == 0
    assert scores['pedestrian_AP_dist_1.0'] > 0.9 and scores['truck_AP_dist_1.0'] > 0.9
    assert scores['mATE'] == pytest.approx(0.7, abs=0.01)
    assert scores['mAP'] == pytest.approx(0.75, abs=0.02)  # a box moved across its class's range may be gained or lost


def test_cars_called_buses_cost_the_car_and_precision_of_the_bus(root, truth):
    car, bus = NAMES.index('car'), NAMES.index('bus')
    wrong = [dict(item, labels_3d=torch.where(item['labels_3d'] == car, bus, item['labels_3d'])) for item in truth]
    scores = score(root, wrong)
    assert average_precision(scores, 'car') == 0 and 0 < average_precision(scores, 'bus') < 1
    assert all(average_precision(scores, name) == 1 for name in NAMES if name not in ('car', 'bus'))


def test_half_of_the_boxes_score_the_recall_they_reach(root, nusc, truth, lidar_views):
    scored = filter_eval_boxes(
        nusc, add_center_dist(nusc, load_gt(nusc, 'mini_val', DetectionBox)), config_factory('detection_cvpr_2019').class_range
    )
    kept, half = dict.fromkeys(NAMES, 0), []
    totals = {name: sum(item.detection_name == name for item in scored.all) for name in NAMES}
    for sample, item in enumerate(truth):
        chosen = torch.arange(len(item['labels_3d'])) % 2 == 0
        half.append({key: value[chosen] for key, value in item.items()})
        for name in NAMES:
            centers = item['bboxes_3d'].gravity_center[chosen & (item['labels_3d'] == NAMES.index(name))]
            boxes = scored[nusc.sample[VAL_SCENE * 3 + sample]['token']]
            kept[name] += matched(lidar_views[sample], centers, [box for box in boxes if box.detection_name == name])
    scores = score(root, half)
    for name in NAMES:
        # precision is 1 up to the recall reached and 0 after; the devkit leaves out recalls up to 0.1
        reached = np.floor(100 * kept[name] / totals[name] + 1e-9)
        assert average_precision(scores, name) == pytest.approx(max(reached - 10, 0) / 90, abs=1e-4), name
    assert 0.2 < scores['mAP'] < 0.8


def test_an_evaluation_without_boxes_scores_zero_with_one_warning(root, truth, monkeypatch):
    nothing = [{name: value[:0] for name, value in item.items()} for item in truth]
    with pytest.raises(Exception, match='Invalid box type: None'):
        score(root, nothing)
    warned = []
    monkeypatch.setattr(nuscenes_metric, 'print_log', lambda text, *_: warned.append(text))
    scores, usual = score(root, nothing, NuScenesMetric), score(root, truth, NuScenesMetric)
    assert set(scores) == set(usual) and usual == pytest.approx(score(root, truth), nan_ok=True)
    assert scores['mAP'] == scores['NDS'] == scores['car_AP_dist_4.0'] == 0 and scores['mATE'] == scores['car_trans_err'] == 1
    assert {name for name, value in scores.items() if value != value} == {name for name, value in usual.items() if value != value}
    assert warned == ['no box is predicted within the range of its class: every score of this evaluation is 0']


def matched(view: View, centers: torch.Tensor, boxes: list[DetectionBox]) -> int:
    """How many of ``boxes`` (global frame) lie on one of ``centers`` (lidar frame)."""
    places = centers.numpy() @ view.rotation.T + view.translation
    return sum(bool((np.linalg.norm(places - box.translation, axis=1) < 0.01).any()) for box in boxes)
