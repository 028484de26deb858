"""Custom3DDataset: labels, boxes and velocities of somebody's own info files, and what it refuses."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from custom_data import CLASSES, write_custom_data
from mmengine.registry import DATASETS, init_default_scope

from bevfusion_plugin.datasets import BadSample


@pytest.fixture
def built(tmp_path):
    """A function that writes the data, changed by ``change``, and builds the data set with these arguments."""

    def build(change=lambda infos: None, **arguments):
        write_custom_data(tmp_path)
        path = tmp_path / 'custom_infos_train.pkl'
        infos = pickle.loads(path.read_bytes())
        change(infos)
        path.write_bytes(pickle.dumps(infos))
        init_default_scope('mmdet3d')
        return DATASETS.build(
            dict(
                dict(
                    type='bevfusion_plugin.Custom3DDataset',
                    data_root=str(tmp_path),
                    ann_file=path.name,
                    pipeline=[],
                    data_prefix=dict(pts='points', img=''),
                    metainfo=dict(classes=list(CLASSES)),
                    test_mode=True,
                ),
                **arguments,
            )
        )

    return build


def annotations(data):
    return data.get_data_info(0)['eval_ann_info']


def test_boxes_labels_and_classes_are_those_of_the_info_file(built):
    data = built()
    found = annotations(data)
    assert data.metainfo['classes'] == list(CLASSES) and found['gt_labels_3d'].tolist() == [0, 1]
    assert found['gt_bboxes_3d'].tensor.shape == (2, 7)
    np.testing.assert_allclose(found['gt_bboxes_3d'].gravity_center[0], [6, 1.5, -1], atol=1e-6)


def test_class_balanced_sampling_finds_the_classes_of_a_frame(built):
    assert built(test_mode=False).get_cat_ids(0) == {0, 1}


def test_a_box_may_be_given_by_its_bottom(built):
    np.testing.assert_allclose(annotations(built(box_origin=[0.5, 0.5, 0]))['gt_bboxes_3d'].gravity_center[0], [6, 1.5, 0], atol=1e-6)


def test_velocities_are_columns_and_what_nobody_measured_is_zero(built):
    def unmeasured(infos):
        infos['data_list'][0]['instances'][1]['velocity'] = [float('nan')] * 2

    assert annotations(built(unmeasured, with_velocity=True))['gt_bboxes_3d'].tensor[:, 7:].tolist() == [[0.5, 0], [0, 0]]


@pytest.mark.parametrize('with_velocity, columns', [(True, 9), (False, 7)])
def test_a_frame_without_boxes_has_none(built, with_velocity, columns):
    found = annotations(built(lambda infos: infos['data_list'][0].update(instances=[]), with_velocity=with_velocity))
    assert found['gt_bboxes_3d'].tensor.shape == (0, columns) and found['gt_labels_3d'].shape == (0,)


def test_boxes_that_no_point_hits_are_left_out_where_their_number_is_known(built):
    assert annotations(built(lambda infos: infos['data_list'][0]['instances'][0].update(num_lidar_pts=0)))['gt_labels_3d'].tolist() == [1]

    def unknown(infos):
        for each in infos['data_list'][0]['instances']:
            del each['num_lidar_pts']

    assert annotations(built(unknown))['gt_labels_3d'].tolist() == [0, 1]


def test_a_part_of_the_info_files_classes_can_be_trained(built):
    data = built(metainfo=dict(classes=['pallet']), categories=list(CLASSES))
    assert annotations(data)['gt_labels_3d'].tolist() == [-1, 0]


@pytest.mark.parametrize(
    'arguments, error, message',
    [
        (dict(metainfo=None), ValueError, 'metainfo must be a dict .*got None'),
        (
            dict(metainfo=dict(classes=['pallet', 'pallet'])),
            ValueError,
            r"metainfo.classes must be names of classes, each once, got \['pallet', 'pallet'\]",
        ),
        (dict(categories='pallet'), ValueError, "categories must be .* got 'pallet'"),
        (
            dict(metainfo=dict(classes=['lorry']), categories=list(CLASSES)),
            ValueError,
            'must be one or more of forklift, pallet, .* where lorry is unknown',
        ),
        (dict(box_origin=[0.5, 0.5]), ValueError, r'box_origin must be 3 finite numbers .* got \[0.5, 0.5\]'),
        (dict(box_origin=[0.5, 0.5, 2]), ValueError, r'box_origin must be three shares of a box in \[0, 1\], got'),
        (
            dict(metainfo=dict(classes=['pallet', 'forklift'])),
            BadSample,
            r'number the classes otherwise than the data set: forklift 0 \(data set: 1\)',
        ),
        (dict(metainfo=dict(classes=['pallet'])), BadSample, 'knows forklift, which the data set does not; .*categories'),
    ],
)
def test_what_does_not_fit_is_refused_at_construction(built, arguments, error, message):
    with pytest.raises(error, match=message):
        built(**arguments)


def test_a_missing_velocity_is_named_with_its_sample(built):
    with pytest.raises(BadSample, match=r'instances\[0\].*velocity'):
        built(lambda infos: infos['data_list'][0]['instances'][0].pop('velocity'), with_velocity=True)
