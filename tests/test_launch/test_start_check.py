import pickle

import pytest
import torch
from mmengine.config import Config

from bevfusion_plugin.doctor.missing import (SAMPLE_VARIABLE, PreflightError, check_run, first_key, missing_devices,
                                               missing_packages, will_validate)


@pytest.fixture(autouse=True)
def no_sample(monkeypatch):
    monkeypatch.delenv(SAMPLE_VARIABLE, raising=False)


@pytest.fixture
def run(tmp_path):
    """A config whose data is all there, and its data folder."""
    for folder in ('samples/LIDAR_TOP', 'v1.0-mini'):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / 'infos.pkl').write_bytes(pickle.dumps(dict(metainfo={}, data_list=[])))
    dataset = dict(type='NuScenesDataset', data_root=str(tmp_path), ann_file='infos.pkl',
                   data_prefix=dict(pts='samples/LIDAR_TOP', sweeps='sweeps/LIDAR_TOP'), pipeline=[])
    return tmp_path, Config(dict(
        train_dataloader=dict(dataset=dict(type='CBGSDataset', dataset=dataset)), val_dataloader=dict(dataset=dataset),
        test_dataloader=dict(dataset=dataset), val_evaluator=dict(type='NuScenesMetric', data_root=str(tmp_path)),
        test_evaluator=[dict(type='NuScenesMetric', data_root=str(tmp_path))],
        train_cfg=dict(by_epoch=True, max_epochs=2, val_interval=1)))


def problems_of(cfg, training=True):
    with pytest.raises(PreflightError) as error:
        check_run(cfg, training)
    return str(error.value)


@pytest.mark.parametrize('training', [True, False])
def test_a_complete_run_passes(run, training):
    assert check_run(run[1], training) is None


def test_missing_data_folder_is_named_once_with_the_layout(run):
    _, cfg = run
    cfg.train_dataloader.dataset.dataset.data_root = cfg.val_dataloader.dataset.data_root = 'no/such/folder'
    text = problems_of(cfg)
    assert text.count('no/such/folder does not exist') == 1
    assert 'samples/ and sweeps/' in text and 'make demo' in text and 'data_root=FOLDER' in text


def test_missing_info_file_is_named(run):
    folder, cfg = run
    cfg.val_dataloader.dataset.ann_file = 'nuscenes_infos_val.pkl'
    assert f'{folder}/nuscenes_infos_val.pkl does not exist' in problems_of(cfg)


@pytest.mark.parametrize('content', [dict(infos=[], metadata={}), ['x']], ids=['old', 'list'])
def test_info_file_of_another_schema_is_refused(run, content):
    folder, cfg = run
    (folder / 'infos.pkl').write_bytes(pickle.dumps(content))
    assert 'not with data_list and metainfo' in problems_of(cfg)


def test_annotations_in_another_form_are_left_to_their_data_set(run):
    folder, cfg = run
    (folder / 'coco.json').write_text('{"images": []}')
    cfg.train_dataloader.dataset.dataset.ann_file = 'coco.json'
    assert check_run(cfg) is None
    (folder / 'coco.json').unlink()
    assert f'the info file {folder}/coco.json does not exist; set ann_file' in problems_of(cfg)


@pytest.mark.parametrize('dataset', [dict(data_root='s3://bucket/nuscenes'),
                                     dict(data_root='nuscenes/in/ceph', backend_args=dict(backend='petrel'))])
def test_data_that_is_not_on_this_machine_is_left_to_its_backend(run, dataset):
    _, cfg = run
    cfg.train_dataloader.dataset.dataset.update(dataset)
    assert check_run(cfg) is None


def test_missing_sensor_folder_is_named(run):
    folder, cfg = run
    (folder / 'samples/LIDAR_TOP').rmdir()
    assert f'the sensor folder {folder}/samples/LIDAR_TOP does not exist' in problems_of(cfg)


def test_missing_object_database_is_named(run):
    _, cfg = run
    cfg.train_dataloader.dataset.dataset.pipeline = [dict(type='ObjectSample', db_sampler=dict(info_path='no/db.pkl'))]
    assert 'the object database no/db.pkl does not exist' in problems_of(cfg)


def test_missing_tables_are_reported_only_if_a_validation_will_need_them(run):
    folder, cfg = run
    (folder / 'v1.0-mini').rmdir()
    assert 'NuScenesMetric needs the nuScenes tables' in problems_of(cfg)
    assert 'NuScenesMetric needs the nuScenes tables' in problems_of(cfg, training=False)
    cfg.train_cfg.val_begin = 3
    assert check_run(cfg) is None


@pytest.mark.parametrize('train_cfg, expected', [
    (dict(max_epochs=2), True), (dict(max_epochs=2, val_interval=3), True), (dict(max_epochs=2, val_begin=3), False),
    (dict(max_iters=2), True), (dict(max_iters=2, val_begin=3), False)])
def test_will_validate_follows_the_loop(train_cfg, expected):
    assert will_validate(Config(dict(train_cfg=train_cfg, val_dataloader=dict(batch_size=1)))) is expected


def test_all_problems_come_at_once_and_weights_name_their_place(run):
    _, cfg = run
    cfg.load_from = 'no/lidar.pth'
    cfg.model = dict(img_backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='no/swin.pth')), neck=None)
    text = problems_of(cfg)
    assert 'load_from names no/lidar.pth' in text and 'model.img_backbone.init_cfg.checkpoint names no/swin.pth' in text


def test_addresses_of_weights_are_left_to_the_loader(run):
    _, cfg = run
    cfg.load_from = 'https://example.org/x.pth'
    assert check_run(cfg) is None


def test_a_trial_on_a_sample_starts_from_random_weights_and_says_so(run, monkeypatch, caplog):
    _, cfg = run
    cfg.load_from = 'no/lidar.pth'
    cfg.model = dict(img_backbone=dict(type='Swin', init_cfg=dict(type='Pretrained', checkpoint='no/swin.pth')))
    monkeypatch.setenv(SAMPLE_VARIABLE, 'anything')
    check_run(cfg)
    assert cfg.load_from is None and cfg.model.img_backbone == dict(type='Swin', init_cfg=None)
    assert cfg.val_evaluator.type == 'NuScenesMetric', 'the tables are there'


def test_a_trial_on_a_sample_without_tables_takes_the_metric_that_needs_none(run, monkeypatch):
    folder, cfg = run
    (folder / 'v1.0-mini').rmdir()
    monkeypatch.setenv(SAMPLE_VARIABLE, 'anything')
    assert check_run(cfg) is None
    assert cfg.val_evaluator == cfg.test_evaluator == dict(type='bevfusion_plugin.CenterDistanceMetric')


def test_nccl_without_a_gpu_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    cfg = Config(dict(launcher='pytorch', env_cfg=dict(dist_cfg=dict(backend='nccl'))))
    assert 'needs CUDA' in next(missing_devices(cfg))
    cfg.env_cfg.dist_cfg.backend = 'gloo'
    assert list(missing_devices(cfg)) == []


def test_missing_packages_are_named(monkeypatch):
    real = __import__('importlib.util').util.find_spec
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None if name == 'mmdet3d' else real(name))
    assert 'mmdet3d cannot be imported' in next(missing_packages(Config(dict(default_scope='mmdet3d'))))


def test_first_key_reads_only_the_head(tmp_path):
    path = tmp_path / 'x.pkl'
    path.write_bytes(pickle.dumps(dict(metainfo={}, data_list=[]))[:60])
    assert first_key(path) == 'metainfo'
    path.write_bytes(b'not a pickle')
    assert first_key(path) is None
