"""The check of a whole data set: which sets a config has, what fits their pipelines, and what is found in several processes."""

from __future__ import annotations

import pickle
import shutil

import pytest
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from synthetic_infos import PREFIX

from bevfusion_plugin.doctor.data_check import DataCheck, check_of, data_sets

RANGE = [-54.0, -54.0, -5.0, 54.0, 54.0, 3.0]


def dataset(root, pipeline=(), **changes) -> dict:
    """mmdet3d's own, with whatever pipeline."""
    return dict(
        dict(
            type='NuScenesDataset',
            data_root=str(root),
            ann_file='nuscenes_infos_train.pkl',
            data_prefix=dict(PREFIX),
            modality=dict(use_lidar=True, use_camera=True),
            pipeline=list(pipeline),
        ),
        **changes,
    )


@pytest.fixture
def copied(tiny_nuscenes, tmp_path):
    """A copy that may be damaged, its infos, and a function that writes them."""
    root = tmp_path / 'nuscenes'
    shutil.copytree(tiny_nuscenes, root, ignore=shutil.ignore_patterns('maps', 'v1.0-mini'))
    path = root / 'nuscenes_infos_train.pkl'
    infos = pickle.loads(path.read_bytes())
    return root, infos, lambda: path.write_bytes(pickle.dumps(infos))


def test_all_data_sets_of_a_config_are_found_once():
    train = [dict(type='A', ann_file='a.pkl'), dict(type='A', ann_file='b.pkl')]
    cfg = Config(
        dict(
            train_dataloader=dict(dataset=dict(type='CBGSDataset', dataset=dict(type='ConcatDataset', datasets=train))),
            val_dataloader=dict(dataset=dict(type='A', ann_file='c.pkl')),
            test_dataloader=dict(dataset=dict(type='A', ann_file='c.pkl')),
        )
    )
    assert [each['ann_file'] for each in data_sets(cfg)] == ['a.pkl', 'b.pkl', 'c.pkl']
    assert [each['ann_file'] for each in data_sets(cfg, 'test')] == ['c.pkl']
    assert data_sets(Config(dict(test_dataloader=None)), 'test') == []


def test_the_check_is_the_pipelines_own():
    own = dict(type='bevfusion_plugin.CheckSample', cameras=['CAM_FRONT'], sweeps=False)
    assert check_of(dataset('x', [own])) == own


def test_without_one_it_follows_from_the_pipeline():
    steps = [
        dict(type='bevfusion_plugin.BEVLoadMultiViewImageFromFiles', cameras=['CAM_BACK']),
        dict(type='LoadPointsFromMultiSweeps'),
        dict(type='mmdet3d.PointsRangeFilter', point_cloud_range=RANGE),
    ]
    follows = dict(type='bevfusion_plugin.CheckSample')
    assert check_of(dataset('x', steps)) == dict(follows, cameras=['CAM_BACK'], sweeps=True, point_cloud_range=RANGE)
    assert check_of(dataset('x', modality=dict(use_lidar=True))) == dict(follows, cameras=[], sweeps=False, point_cloud_range=None)


def test_a_set_in_order_has_no_faults(tiny_nuscenes):
    check = DataCheck(dataset(tiny_nuscenes), 'mmdet3d')
    assert len(check) == 4 and list(check.faults()) == []


@pytest.mark.parametrize('processes', [1, 2])
def test_every_bad_sample_is_listed_once_in_order(processes, copied):
    root, infos, write = copied
    first = root / 'samples' / 'LIDAR_TOP' / infos['data_list'][0]['lidar_points']['lidar_path']
    first.write_bytes(b'')
    del infos['data_list'][2]['instances'][0]['bbox_3d']
    infos['data_list'][3]['images']['CAM_BACK']['cam2img'] = [[0.0] * 3] * 3
    infos['data_list'] = infos['data_list'] * 20
    for number, info in enumerate(infos['data_list']):
        infos['data_list'][number] = dict(info, token=f't{number}')
    write()
    looked_at = []
    faults = list(DataCheck(dataset(root), 'mmdet3d').faults(processes, looked_at.append))
    assert sum(looked_at) == 80 and len(faults) == 60  # of each four, the second is in order
    assert 'sample 0 (token t0' in faults[0] and f'{first} is empty; copy it again' in faults[0]
    assert 'token t2' in faults[1] and 'instances[0] of the info file lacks bbox_3d' in faults[1]
    assert 'sample 3 (token t3' in faults[2] and 'images.CAM_BACK.cam2img' in faults[2]
    assert not [each for each in faults if 'check_data.py' in each or '\n' in each]


def test_a_token_that_occurs_twice_and_a_file_as_a_whole(copied):
    root, infos, write = copied
    infos['data_list'][3]['token'] = infos['data_list'][1]['token']
    infos['metainfo']['categories'] = dict(car=1, truck=0)
    write()
    whole, token = DataCheck(dataset(root, metainfo=dict(classes=['car', 'truck'])), 'mmdet3d').faults()
    assert 'car 1 (data set: 0), truck 0 (data set: 1)' in whole and 'is that of sample 1 too' in token


@pytest.mark.parametrize('content', [b'', b'no pickle', pickle.dumps(dict(infos=[]))])
def test_a_damaged_info_file_is_one_fault(content, copied):
    root, _, _ = copied
    (root / 'nuscenes_infos_train.pkl').write_bytes(content)
    check = DataCheck(dataset(root), 'mmdet3d')
    assert len(check) == 0 and ['cannot be read as an info file of format 2' in fault for fault in check.faults()] == [True]


@pytest.mark.parametrize(
    'cfg, error, message',
    [
        (dict(type='NoSuchDataset'), ValueError, 'the data set NoSuchDataset cannot be built'),
        (
            dict(type='NuScenesDataset', nonsense=1, data_root='x', ann_file='y.pkl'),
            ValueError,
            "NuScenesDataset cannot be built.*nonsense",
        ),
        (dict(type=BaseDataset, ann_file='a.json'), ValueError, "BaseDataset is not one of mmdet3d's"),
        (dict(type='NuScenesDataset', data_root='no/such/place', ann_file='y.pkl'), FileNotFoundError, 'no/such/place/y.pkl'),
    ],
)
def test_what_cannot_be_checked_is_refused(cfg, error, message):
    with pytest.raises(error, match=message):
        DataCheck(cfg, 'mmdet3d')
