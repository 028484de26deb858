import numpy as np
import pytest
import torch
from mmdet3d.datasets.transforms.dbsampler import BatchSampler
from torch.utils.data import DataLoader

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
