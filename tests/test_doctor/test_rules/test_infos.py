import os
import pickle

import numpy as np
import pytest
from mmengine.config import Config
from reference_recipes import reference_lidar

from bevfusion_plugin.doctor.case import Case
from bevfusion_plugin.doctor.examination import examine
from bevfusion_plugin.doctor.rules.infos import check_info_categories, check_info_counts, check_object_database, check_plain_pickles


@pytest.fixture
def lidar(tmp_path):
    """The lidar recipe with an object database of two boxes of 2 m height."""
    cfg = reference_lidar()
    sampler = next(step for step in cfg.train_dataloader.dataset.dataset.pipeline if step.type == 'ObjectSample').db_sampler
    sampler.update(data_root=str(tmp_path), info_path=str(tmp_path / 'db.pkl'))
    return cfg


def write_database(folder, reach, points=30):
    entries = []
    for index in range(2):
        cloud = np.zeros((points, 5), dtype=np.float32)
        cloud[:, 2] = np.linspace(0, reach * 2.0, points)
        cloud.tofile(folder / f'{index}.bin')
        entries.append(dict(path=f'{index}.bin', num_points_in_gt=points, box3d_lidar=np.array([0, 0, 0, 4, 2, 2.0, 0], np.float32)))
    (folder / 'db.pkl').write_bytes(pickle.dumps(dict(car=entries)))


@pytest.mark.parametrize('reach, count', [(0.95, 0), (0.5, 1)])
def test_objects_cut_with_half_boxes_are_noticed(lidar, tmp_path, reach, count):
    write_database(tmp_path, reach)
    problems = list(check_object_database(Case(lidar)))
    assert len(problems) == count
    assert all('50% of the height' in problem.message for problem in problems)


def test_objects_without_points_are_noticed(lidar, tmp_path):
    write_database(tmp_path, 0.9, points=0)
    assert '2 objects' in next(check_object_database(Case(lidar))).message


def test_an_absent_database_is_left_to_missing_data(lidar):
    assert not list(check_object_database(Case(lidar)))


@pytest.mark.parametrize('frames, version, count', [(28_130, 'v1.0-trainval', 0), (10, 'v1.0-trainval', 1), (10, None, 0)])
def test_a_part_of_trainval_is_noticed(lidar, tmp_path, frames, version, count):
    lidar.train_dataloader.dataset.dataset.data_root = str(tmp_path)
    content = dict(metainfo=dict(version=version), data_list=[{}] * frames)
    (tmp_path / 'nuscenes_infos_train.pkl').write_bytes(pickle.dumps(content))
    problems = list(check_info_counts(Case(lidar)))
    assert len(problems) == count
    assert all('holds 10 frames' in problem.message and '28,130' in problem.message for problem in problems)


@pytest.mark.parametrize('wanted, count', [(None, 1), ('v1.0-trainval', 1), ('v1.0-mini', 0)])
def test_the_infos_of_another_version_are_noticed(lidar, tmp_path, wanted, count):
    dataset = lidar.train_dataloader.dataset.dataset
    dataset.update(data_root=str(tmp_path), metainfo=dict(version=wanted) if wanted else {})
    content = dict(metainfo=dict(version='v1.0-mini'), data_list=[{}] * 10)
    (tmp_path / 'nuscenes_infos_train.pkl').write_bytes(pickle.dumps(content))
    assert ['was made from v1.0-mini' in problem.message for problem in check_info_counts(Case(lidar))] == [True] * count


@pytest.mark.parametrize(
    'categories, message',
    [
        (dict(car=0, truck=1), None),
        (None, None),
        (dict(car=1, truck=0), 'car 1 (data set: 0)'),
        (dict(auto=0, truck=1), 'does not know car and knows auto'),
    ],
)
def test_categories_numbered_otherwise_are_noticed(categories, message, tmp_path):
    (tmp_path / 'infos.pkl').write_bytes(pickle.dumps(dict(metainfo=dict(categories=categories), data_list=[])))
    dataset = dict(type='NuScenesDataset', data_root=str(tmp_path), ann_file='infos.pkl', metainfo=dict(classes=['car', 'truck']))
    found = list(check_info_categories(Case(Config(dict(train_dataloader=dict(dataset=dataset))))))
    assert len(found) == (message is not None) and all(message in problem.message for problem in found)


class Hostile:
    """Runs a command when it is read."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize('hostile', ['nuscenes_infos_train.pkl', 'db.pkl'])
def test_files_that_run_code_are_named_and_nothing_runs(lidar, tmp_path, hostile):
    lidar.train_dataloader.dataset.dataset.data_root = str(tmp_path)
    (tmp_path / 'nuscenes_infos_train.pkl').write_bytes(pickle.dumps(dict(metainfo={}, data_list=[])))
    write_database(tmp_path, 0.9)
    assert not list(check_plain_pickles(Case(lidar)))
    (tmp_path / hostile).write_bytes(pickle.dumps(dict(car=[Hostile(f'touch {tmp_path}/ran')])))
    problems = list(check_plain_pickles(Case(lidar)))
    assert len(problems) == 1 and f'{hostile} names posix.system' in problems[0].message
    examine(Case(lidar))
    assert not (tmp_path / 'ran').exists()
