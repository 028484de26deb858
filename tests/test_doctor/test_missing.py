import importlib.util
import pickle

import pytest
import torch
from mmengine.config import Config

from bevfusion_plugin.doctor.missing import first_key, missing_data, missing_devices, missing_packages, will_validate


@pytest.mark.parametrize(
    'train_cfg, expected',
    [
        (dict(max_epochs=2), True),
        (dict(max_epochs=2, val_interval=3), True),
        (dict(max_epochs=2, val_begin=3), False),
        (dict(max_iters=2), True),
        (dict(max_iters=2, val_begin=3), False),
    ],
)
def test_will_validate_follows_the_loop(train_cfg, expected):
    assert will_validate(Config(dict(train_cfg=train_cfg, val_dataloader=dict(batch_size=1)))) is expected


def test_nccl_without_a_gpu_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    cfg = Config(dict(launcher='pytorch', env_cfg=dict(dist_cfg=dict(backend='nccl'))))
    assert 'needs CUDA' in next(missing_devices(cfg)).what
    cfg.env_cfg.dist_cfg.backend = 'gloo'
    assert list(missing_devices(cfg)) == []


def test_missing_packages_are_named(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None if name == 'mmdet3d' else real(name))
    assert 'mmdet3d cannot be imported' in next(missing_packages(Config(dict(default_scope='mmdet3d')))).what


def test_first_key_reads_only_the_head(tmp_path):
    path = tmp_path / 'x.pkl'
    path.write_bytes(pickle.dumps(dict(metainfo={}, data_list=[]))[:60])
    assert first_key(path) == 'metainfo'
    path.write_bytes(b'not a pickle')
    assert first_key(path) is None


def test_what_two_loaders_name_comes_once_in_the_order_of_the_loaders():
    dataset = dict(type='NuScenesDataset', data_root='no/a')
    cfg = Config(
        dict(
            train_cfg=dict(max_epochs=1),
            train_dataloader=dict(dataset=dataset),
            val_dataloader=dict(dataset=dataset),
            test_dataloader=dict(dataset=dict(dataset, data_root='no/b')),
        )
    )
    assert [missing.place for missing in missing_data(cfg, training=True)] == ['train_dataloader']
    assert [missing.place for missing in missing_data(cfg, training=False)] == ['test_dataloader']


def test_every_member_of_a_concatenation_is_looked_at(tmp_path):
    members = [dict(type='ToyData', data_root=str(tmp_path)), dict(type='ToyData', data_root='no/b')]
    cfg = Config(dict(train_cfg=dict(max_epochs=1), train_dataloader=dict(dataset=dict(type='ConcatDataset', datasets=members))))
    assert [missing.what for missing in missing_data(cfg, training=True)] == ['train_dataloader: the data folder no/b does not exist']


@pytest.mark.parametrize('dataset', [dict(data_prefix='pts'), dict(data_prefix=dict(pts=None)), dict(data_root=None), dict(pipeline=None)])
def test_what_names_no_folder_misses_none(tmp_path, dataset):
    cfg = Config(
        dict(
            train_cfg=dict(max_epochs=1),
            val_evaluator=dict(type='NuScenesMetric'),
            val_dataloader=dict(dataset=dict(type='ToyData', data_root=str(tmp_path)) | dataset),
        )
    )
    assert list(missing_data(cfg, training=True)) == []


def test_what_is_found_before_a_value_that_cannot_be_read_is_not_lost(tmp_path):
    cfg = Config(
        dict(
            train_cfg=dict(max_epochs=1),
            train_dataloader=dict(dataset=dict(type='ToyData', data_root='no/a')),
            val_dataloader=dict(dataset=dict(type='ToyData', data_root=3)),
        )
    )
    found = missing_data(cfg, training=True)
    assert next(found).place == 'train_dataloader'
    with pytest.raises(TypeError):
        next(found)


@pytest.mark.parametrize(
    'wrapped', [lambda inner: dict(type='CBGSDataset', dataset=inner), lambda inner: dict(type='ConcatDataset', datasets=[inner])]
)
def test_data_sets_are_found_inside_their_wrappers(wrapped):
    cfg = Config(dict(train_cfg=dict(max_epochs=1), train_dataloader=dict(dataset=wrapped(dict(type='ToyData', data_root='no/a')))))
    (missing,) = missing_data(cfg, training=True)
    assert missing.what == 'train_dataloader: the data folder no/a does not exist'
