import pickle

import numpy as np
import pytest
import torch
from mmdet3d.datasets.transforms.dbsampler import BatchSampler
from mmdet3d.structures import LiDARInstance3DBoxes
from mmdet3d.structures.points import LiDARPoints
from mmengine.registry import init_default_scope
from torch.utils.data import DataLoader

from bevfusion_plugin.datasets.checks.fault import BadSample
from bevfusion_plugin.datasets.object_sample import ObjectSample, draw_anew
from bevfusion_plugin.engine.sampling.seeded_samples import seed_samples
from bevfusion_plugin.engine.sampling.seekable_sampler import SeekableSampler


def test_the_label_type_that_mmdet3d_names_exists_on_every_numpy(monkeypatch):
    monkeypatch.delattr(np, 'long', raising=False)
    with pytest.raises(KeyError, match='NoSuchSampler'):  # a real one needs a database; the type is there before it is built
        ObjectSample(db_sampler=dict(type='NoSuchSampler'))
    assert np.array([1], dtype=vars(np)['long']).dtype == np.int64


class PastedTrucks:
    """A data set whose samples are the numbers of the trucks, of a thousand, that are pasted into them."""

    def __init__(self):
        self.samplers = dict(truck=BatchSampler(list(range(1000)), 'truck'))
        draw_anew(self.samplers)

    def __len__(self):
        return 40

    def __getitem__(self, index):
        return self.samplers['truck'].sample(1)[0]


def pasted(epoch, dataset, workers=2, resumed_after=0):
    """What is pasted in an epoch, sample by sample."""
    sampler = SeekableSampler(dataset, shuffle=False, seed=0)
    loader = DataLoader(dataset, batch_size=4, num_workers=workers, sampler=sampler)
    seed_samples(loader, seed=7)
    sampler.set_epoch(epoch)
    sampler.seek(resumed_after)
    return torch.cat(list(loader)).tolist()


def test_samples_and_epochs_paste_different_objects_and_a_resumed_epoch_repeats_its_own():
    dataset = PastedTrucks()
    first, second = pasted(1, dataset), pasted(2, dataset)
    assert len(set(first + second)) > 70, '80 draws of 1000 hold few twice, unless samples or epochs begin alike'
    assert pasted(1, dataset, workers=3) == first, 'whatever worker loads them'
    assert pasted(1, dataset, resumed_after=12) == first[12:]


def test_an_object_is_pasted_once_at_most():
    sampler = BatchSampler(list(range(5)), 'bus')
    draw_anew(dict(bus=sampler))
    assert sorted(sampler.sample(9)) == [0, 1, 2, 3, 4]
    assert len(set(sampler.sample(3))) == 3


@pytest.fixture
def pasting(tmp_path):
    """An ``ObjectSample`` of one car, and the file of its points."""
    path = tmp_path / 'car.bin'
    np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32).tofile(path)
    entry = dict(
        name='car', path='car.bin', box3d_lidar=np.array([9.0, 2, 0, 4, 2, 1.5, 0, 0, 0]), num_points_in_gt=20, difficulty=0, group_id=0
    )
    (tmp_path / 'db.pkl').write_bytes(pickle.dumps(dict(car=[entry])))
    init_default_scope('mmdet3d')
    loader = dict(type='LoadPointsFromFile', coord_type='LIDAR', load_dim=5, use_dim=5)
    return path, ObjectSample(
        db_sampler=dict(
            data_root=str(tmp_path),
            info_path=str(tmp_path / 'db.pkl'),
            rate=1.0,
            classes=['car'],
            sample_groups=dict(car=1),
            prepare=dict(filter_by_difficulty=[-1]),
            points_loader=loader,
        )
    )


def paste(transform) -> dict:
    return transform(
        dict(
            gt_bboxes_3d=LiDARInstance3DBoxes(torch.zeros(0, 9), box_dim=9),
            gt_labels_3d=np.zeros(0, dtype=np.int64),
            points=LiDARPoints(torch.rand(10, 5), points_dim=5),
        )
    )


def test_an_object_in_order_is_pasted(pasting):
    _, transform = pasting
    pasted = paste(pickle.loads(pickle.dumps(transform)))  # workers may be spawned
    assert len(pasted['points']) == 30 and pasted['gt_labels_3d'].tolist() == [0]


@pytest.mark.parametrize(
    'damage, reason',
    [
        (lambda path: path.unlink(), 'does not exist'),
        (lambda path: path.write_bytes(path.read_bytes()[:43]), 'was cut off'),
        (lambda path: np.full((20, 5), np.nan, np.float32).tofile(path), 'not finite'),
    ],
)
def test_a_damaged_object_is_named(damage, reason, pasting):
    path, transform = pasting
    damage(path)
    with pytest.raises(BadSample, match=rf'{path}, an object to paste, .*{reason}.*make the object database again'):
        paste(transform)
