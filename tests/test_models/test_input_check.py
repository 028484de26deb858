"""Inputs that are no numbers are reported as inputs, with sample and field; boxes that are none are left out for the whole head."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmdet3d.structures import Det3DDataSample, LiDARInstance3DBoxes
from mmengine.structures import InstanceData
from torch import nn

from bevfusion_plugin.models import input_check
from bevfusion_plugin.models.input_check import check_batch

NAN, INF = float('nan'), float('inf')
BOX = [1.0, 2, 0, 4, 2, 1.5, 0.1, 0, 0]


def sample_of(boxes=(), **meta) -> Det3DDataSample:
    sample = Det3DDataSample(metainfo=meta)
    tensor = torch.tensor(list(boxes)).reshape(-1, 9)
    sample.gt_instances_3d = InstanceData(bboxes_3d=LiDARInstance3DBoxes(tensor, box_dim=9), labels_3d=torch.arange(len(tensor)))
    return sample


def batch_of(*samples, images=None, points=None) -> dict:
    inputs = dict(points=points or [torch.rand(10, 5) for _ in samples])
    return dict(inputs=dict(inputs, **({} if images is None else dict(img=images))), data_samples=list(samples))


@pytest.mark.parametrize('value', [NAN, INF, -INF])
def test_points_that_are_no_numbers_name_sample_and_file(value):
    points = [torch.rand(10, 5), torch.rand(10, 5)]
    points[1][3, 4] = value
    with pytest.raises(ValueError, match=r'sample 8 \(samples/x.bin\): 1 of 10 points are not finite; tools/check_data.py'):
        check_batch(nn.Identity(), (batch_of(sample_of(sample_idx=7), sample_of(sample_idx=8, lidar_path='samples/x.bin'), points=points),))


def test_huge_points_are_numbers():
    check_batch(nn.Identity(), (batch_of(sample_of(), points=[torch.full((10, 5), 3e38)]),))


@pytest.mark.parametrize('name', input_check.MATRICES)
def test_a_matrix_that_holds_no_number_is_named(name):
    matrices = np.stack([np.eye(4)] * 6)
    check_batch(nn.Identity(), (batch_of(sample_of(**{name: matrices})),))
    matrices[2, 0, 3] = NAN
    with pytest.raises(ValueError, match=f'sample 3: {name} holds numbers that are not finite'):
        check_batch(nn.Identity(), (batch_of(sample_of(sample_idx=3, **{name: list(matrices)})),))


@pytest.mark.parametrize('place, value', [(3, 0.0), (4, -1.0), (0, NAN), (6, NAN), (5, INF)])
def test_boxes_that_are_none_are_left_out_with_one_warning(place, value, monkeypatch):
    lines = []
    monkeypatch.setattr(input_check, 'print_log', lambda line, *_: lines.append(line))
    preprocessor, bad = nn.Identity(), list(BOX)
    bad[place] = value
    for _ in range(2):
        sample = sample_of([BOX, bad, BOX], sample_idx=5)
        check_batch(preprocessor, (batch_of(sample_of([BOX]), sample),))
        assert sample.gt_instances_3d.labels_3d.tolist() == [0, 2] and len(sample.gt_instances_3d.bboxes_3d) == 2
    assert len(lines) == 1 and 'sample 5: 1 boxes are not finite or have no size and are left out' in lines[0]


def test_what_is_legitimate_stays_as_it_is():
    unmeasured = [*BOX[:7], NAN, NAN]
    sample = sample_of([BOX, unmeasured])
    instances = sample.gt_instances_3d
    check_batch(nn.Identity(), (batch_of(sample, sample_of()),))
    assert sample.gt_instances_3d is instances
    check_batch(nn.Identity(), (batch_of(sample, points=[torch.zeros(0, 5)]),))
    check_batch(nn.Identity(), (dict(inputs=dict(points=[torch.rand(4, 5)])),))


def test_different_numbers_of_cameras_are_named():
    images = [torch.zeros(6, 3, 4, 4), torch.zeros(5, 3, 4, 4)]
    with pytest.raises(ValueError, match=r'different numbers of cameras \(sample 0: 6, sample 9: 5\); .*cameras='):
        check_batch(nn.Identity(), (batch_of(sample_of(sample_idx=0), sample_of(sample_idx=9), images=images),))
