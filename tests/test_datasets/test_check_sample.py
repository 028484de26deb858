"""CheckSample's switches, on samples made up here; what it finds by itself is in test_data_faults.py."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmdet3d.structures import LiDARInstance3DBoxes
from PIL import Image

from bevfusion_plugin.datasets import BadSample, CheckSample, check_sample
from bevfusion_plugin.datasets.checks.calibration import rigid_fault, rigid_matrices_fit
from bevfusion_plugin.datasets.checks.point_files import part_fault

BOX = [5.0, 2, 0, 4, 2, 1.5, 0.1, 0, 0]


def with_boxes(*boxes, key='ann_info') -> dict:
    tensor = torch.tensor(boxes)
    return {
        'sample_idx': 3,
        'token': 't3',
        key: dict(
            gt_bboxes_3d=LiDARInstance3DBoxes(tensor, box_dim=9),
            gt_labels_3d=np.arange(len(boxes)),
            velocities=np.zeros((len(boxes), 2)),
            instances=[{}] * len(boxes),
        ),
    }


@pytest.mark.parametrize('key', ['ann_info', 'eval_ann_info'])
def test_boxes_are_left_out_with_one_warning_a_sample_if_asked_for(key, monkeypatch):
    lines = []
    monkeypatch.setattr(check_sample, 'print_log', lambda line, *_: lines.append(line))
    flat, nowhere = [*BOX[:3], 0.0, *BOX[4:]], [float('nan'), *BOX[1:]]
    check = CheckSample(leave_out_boxes=True)
    for _ in range(2):
        left = check(with_boxes(BOX, flat, nowhere, BOX, key=key))[key]
        assert left['gt_labels_3d'].tolist() == [0, 3] and len(left['gt_bboxes_3d']) == len(left['velocities']) == 2
        assert len(left['instances']) == 4, 'the raw entries stay'
    (line,) = lines
    assert 'sample 3 (token t3): 2 boxes are left out; the first has no size: x 5, y 2, z 0, l 0,' in line
    with pytest.raises(BadSample, match=r'box 1 \(and 1 more\) has no size: .*leave_out_boxes=True'):
        CheckSample()(with_boxes(BOX, flat, nowhere, BOX, key=key))


def with_images(folder, mode='RGB', size=(40, 20), **cameras) -> dict:
    images = {}
    for name, changes in (cameras or dict(FRONT={}, BACK={})).items():
        path = folder / f'{name}.png'
        Image.new(mode, size).save(path)
        cam2img = [[30.0, 0, 20], [0, 30, 10], [0, 0, 1]]
        images[name] = dict(img_path=str(path), lidar2cam=np.eye(4).tolist(), cam2img=cam2img, **changes)
    return dict(sample_idx=3, images=images)


def test_only_the_cameras_that_are_used_are_looked_at(tmp_path):
    results = with_images(tmp_path)
    (tmp_path / 'BACK.png').unlink()
    del results['images']['BACK']['cam2img']
    CheckSample(cameras=['FRONT'])(results)
    CheckSample(cameras=[])(results)
    with pytest.raises(BadSample, match='images.BACK of the info file lacks cam2img'):
        CheckSample()(results)
    with pytest.raises(BadSample, match='no picture .img_path. of LEFT; cameras with one: FRONT, BACK'):
        CheckSample(cameras=['FRONT', 'LEFT'])(results)


def test_grey_cameras_can_be_allowed(tmp_path):
    results = with_images(tmp_path, mode='L')
    with pytest.raises(BadSample, match=r"mode L \(grey\), expected RGB; .*image_modes=\['L'\]"):
        CheckSample()(results)
    CheckSample(image_modes=['L'])(results)


def test_two_sizes_with_the_same_calibration_are_a_fault_and_with_two_calibrations_are_not(tmp_path):
    (tmp_path / 'a').mkdir()
    (tmp_path / 'b').mkdir()
    check = CheckSample()
    check(with_images(tmp_path / 'a', FRONT={}))
    smaller = with_images(tmp_path / 'b', size=(36, 18), FRONT={})
    with pytest.raises(BadSample, match=r'b/FRONT.png is 36 x 18 pixels, and .*a/FRONT.png, of the same camera and .* is 40 x 20'):
        check(smaller)
    smaller['images']['FRONT']['cam2img'] = [[27.0, 0, 18], [0, 27, 9], [0, 0, 1]]
    check(smaller)


def test_without_sweeps_their_files_are_not_looked_at(tmp_path):
    path = tmp_path / 'points.bin'
    np.random.default_rng(0).uniform(-9, 9, (50, 5)).astype(np.float32).tofile(path)
    sweep = dict(timestamp=0.0, lidar_points=dict(lidar_path='gone.bin', lidar2sensor=np.eye(4)))
    results = dict(
        sample_idx=1, timestamp=0.5, lidar_path=str(path), lidar_sweeps=[sweep], lidar_points=dict(lidar_path=str(path), num_pts_feats=5)
    )
    CheckSample(sweeps=False)(results)
    with pytest.raises(BadSample, match='gone.bin does not exist'):
        CheckSample()(results)
    with pytest.raises(BadSample, match=r'no point within point_cloud_range \[20, 20, 0, 30, 30, 3\]: its 50 points span'):
        CheckSample([20, 20, 0, 30, 30, 3], sweeps=False)(results)


@pytest.mark.parametrize('point_cloud_range', [[0, 0, 0, 1, 1], [0, 0, 5, 1, 1, -5]])
def test_a_range_that_is_none_is_refused(point_cloud_range):
    with pytest.raises(ValueError, match='point_cloud_range must be .*, got'):
        CheckSample(point_cloud_range)


def test_random_rotations_are_rigid_and_their_neighbours_are_not():
    rng = np.random.default_rng(0)
    for _ in range(50):
        matrix = np.eye(4)
        matrix[:3, :3] = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        matrix[:3, :3] *= np.sign(np.linalg.det(matrix[:3, :3]))
        matrix[:3, 3] = rng.normal(size=3)
        assert rigid_fault(matrix.tolist(), 1e3) is None and rigid_matrices_fit(matrix[None], np.array([1e3])).all()
        assert 'determinant -1' in rigid_fault(matrix * [[1], [1], [-1], [1]], 1e3)
        assert 'not rigid' in rigid_fault(matrix * [[1.1], [1.1], [1.1], [1]], 1e3)
        matrix[1, 3] = 2e3
        assert 'shifts by 2e+03 m' in rigid_fault(matrix, 1e3)


@pytest.mark.parametrize(
    'counts, bad',
    [
        ([100, 100, 100], None),
        ([100, 50], None),
        ([50, 100, 100], 'a'),
        ([100, 55, 101, 98], 'b'),
        ([65, 100, 100], None),
        ([100], None),
        ([], None),
    ],
)
def test_a_part_of_a_cloud_is_told_by_at_least_two_others(counts, bad):
    fault = part_fault('abcd'[: len(counts)], counts)
    assert (fault and fault.where) == bad
