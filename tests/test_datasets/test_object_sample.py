from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmdet3d.datasets.transforms.dbsampler import BatchSampler
from mmengine.dataset.utils import worker_init_fn
from torch.utils.data import DataLoader

from bevfusion_plugin.datasets.object_sample import ObjectSample
from bevfusion_plugin.engine.hooks.epoch_seed_hook import epoch_seed


def test_the_label_type_that_mmdet3d_names_exists_on_every_numpy(monkeypatch):
    monkeypatch.delattr(np, 'long', raising=False)
    with pytest.raises(KeyError, match='NoSuchSampler'):  # a real one needs a database; the type is there before it is built
        ObjectSample(db_sampler=dict(type='NoSuchSampler'))
    assert np.array([1], dtype=vars(np)['long']).dtype == np.int64


class PastedTrucks:
    """A data set whose samples are the numbers of the trucks, of a thousand, that are pasted into them."""

    def __init__(self):
        self.paste = ObjectSample.__new__(ObjectSample)
        self.paste._worker_seed = None
        self.paste.db_sampler = SimpleNamespace(sampler_dict=dict(truck=BatchSampler(list(range(1000)), 'truck')))

    def __len__(self):
        return 40

    def __getitem__(self, index):
        self.paste.shuffle_in_new_worker()
        return self.paste.db_sampler.sampler_dict['truck'].sample(1)[0]


def pasted(epoch, dataset):
    """What two fresh workers paste in an epoch that is seeded as EpochSeedHook does."""
    torch.manual_seed(epoch)
    init = partial(worker_init_fn, num_workers=2, rank=0, seed=epoch_seed(0, epoch, 0))
    return torch.cat(list(DataLoader(dataset, batch_size=4, num_workers=2, worker_init_fn=init))).tolist()


def test_workers_and_epochs_paste_different_objects_and_an_epoch_repeats_its_own():
    dataset = PastedTrucks()
    first, second = pasted(1, dataset), pasted(2, dataset)
    assert len(set(first + second)) > 70, '80 draws of 1000 hold few twice, unless workers or epochs begin alike'
    assert pasted(1, dataset) == first, 'a resumed epoch is the same'
