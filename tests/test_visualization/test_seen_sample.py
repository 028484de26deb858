"""What a pipeline packed, as arrays and as one page."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData

from bevfusion_plugin.visualization.seen_sample import in_picture, project, seen_figure, seen_sample

structures = pytest.importorskip('mmdet3d.structures', reason='the samples are mmdet3d objects')

# Looks along +x of the lidar frame, focal length 100, middle at (50, 40).
FORWARD = np.array([[50.0, -100, 0, 0], [40, 0, -100, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
POINTS = torch.tensor([[10.0, 0, 0, 0.5], [20, 1, 0, 0.5], [-10, 0, 0, 0.5]])  # the last one lies behind the camera


def packed(cameras=2, **meta):
    if cameras:
        meta = dict(dict(lidar2img=[FORWARD] * cameras, img_path=[f's/CAM_{index}/a.jpg' for index in range(cameras)]), **meta)
    sample = structures.Det3DDataSample(metainfo=dict(dict(sample_idx=7), **meta))
    boxes = structures.LiDARInstance3DBoxes(torch.tensor([[10.0, 0, -1, 4, 2, 2, 0]]))
    sample.gt_instances_3d = InstanceData(bboxes_3d=boxes, labels_3d=torch.tensor([1]))
    images = dict(img=torch.full((cameras, 3, 80, 100), 30.0)) if cameras else {}
    return dict(inputs=dict(points=POINTS, **images), data_samples=sample)


def without(packed, key):
    packed['data_samples'] = structures.Det3DDataSample(
        metainfo={name: value for name, value in packed['data_samples'].metainfo.items() if name != key}
    )
    return packed


def test_arrays_are_what_was_packed():
    seen = seen_sample(packed())
    assert seen.name == '7' and seen.camera_names == ['CAM_0', 'CAM_1'] and seen.boxes.labels.tolist() == [1]
    assert seen.images.shape == (2, 80, 100, 3) and seen.images.dtype == np.uint8 and seen.points.shape == (3, 4)


def test_points_are_projected_through_both_augmentations():
    lidar_aug, img_aug = np.diag([1.0, -1, 1, 1]), np.diag([0.5, 0.5, 1, 1])
    img_aug[:2, 3] = 3, 4
    seen = seen_sample(packed(1, lidar_aug_matrix=lidar_aug, img_aug_matrix=[img_aug]))
    pixels, depth = project(seen.points, seen.lidar2img[0])
    np.testing.assert_allclose(pixels[1], [(50 + 100 * 1 / 20) * 0.5 + 3, 40 * 0.5 + 4])  # y = 1 was y = -1, to the right
    np.testing.assert_allclose(depth, [10, 20, -10])
    assert in_picture(pixels, depth, (80, 100)).tolist() == [True, True, False]


@pytest.mark.parametrize('cameras', [0, 1, 2, 7])
def test_a_page_shows_the_points_in_each_picture_and_the_boxes_from_above(cameras):
    figure = seen_figure(seen_sample(packed(cameras)), ['car', 'bus'], ['a remark'] * cameras)
    pictures = [axes for axes in figure.axes if axes.texts and axes.texts[0].get_text().endswith('a remark')]
    assert len(pictures) == cameras and 'bus: 1' in [text.get_text() for text in figure.legends[0].get_texts()]
    for axes in pictures:
        scatter = axes.collections[-1]
        assert scatter.get_offsets().tolist() == [[45, 40], [50, 40]] and scatter.get_array().tolist() == [20, 10], 'the nearest on top'


@pytest.mark.parametrize('key', ['sample_idx', 'img_path', 'lidar2img'])
def test_missing_meta_info_is_named_with_its_mend(key):
    with pytest.raises(ValueError, match=f'packs no {key}; add it to meta_keys'):
        seen_sample(without(packed(), key))


def test_missing_points_are_named():
    sample = packed()
    del sample['inputs']['points']
    with pytest.raises(ValueError, match="packs no 'points'; add them to the keys"):
        seen_sample(sample)


def test_a_data_set_in_test_mode_shows_the_boxes_that_it_is_scored_by():
    sample = packed(0)
    boxes = sample['data_samples'].gt_instances_3d.bboxes_3d
    del sample['data_samples'].gt_instances_3d
    sample['data_samples'].eval_ann_info = dict(gt_bboxes_3d=boxes, gt_labels_3d=np.array([0]))
    assert seen_sample(sample).boxes.labels.tolist() == [0]
    sample['data_samples'].eval_ann_info = None
    assert seen_sample(sample).boxes.corners.shape == (0, 8, 3)
