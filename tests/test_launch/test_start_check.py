import pickle

import pytest
from mmengine.config import Config

from bevfusion_plugin.launch.command_line import UsageError
from bevfusion_plugin.launch.start_check import check_start


@pytest.fixture
def run(tmp_path):
    """A config whose data is all there, and its data folder."""
    for folder in ('samples/LIDAR_TOP', 'v1.0-mini'):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / 'infos.pkl').write_bytes(pickle.dumps(dict(metainfo={}, data_list=[])))
    dataset = dict(
        type='NuScenesDataset',
        data_root=str(tmp_path),
        ann_file='infos.pkl',
        data_prefix=dict(pts='samples/LIDAR_TOP', sweeps='sweeps/LIDAR_TOP'),
        pipeline=[],
    )
    return tmp_path, Config(
        dict(
            train_dataloader=dict(dataset=dict(type='CBGSDataset', dataset=dataset)),
            val_dataloader=dict(dataset=dataset),
            test_dataloader=dict(dataset=dataset),
            val_evaluator=dict(type='NuScenesMetric', data_root=str(tmp_path)),
            test_evaluator=[dict(type='NuScenesMetric', data_root=str(tmp_path))],
            train_cfg=dict(by_epoch=True, max_epochs=2, val_interval=1),
        )
    )


def problems_of(cfg, training=True):
    with pytest.raises(UsageError, match='this run cannot start') as error:
        check_start(cfg, training)
    return str(error.value)


@pytest.mark.parametrize('training', [True, False])
def test_a_complete_run_passes(run, training):
    assert check_start(run[1], training) is None


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
    assert check_start(cfg) is None
    (folder / 'coco.json').unlink()
    assert f'the info file {folder}/coco.json does not exist; set ann_file' in problems_of(cfg)


@pytest.mark.parametrize(
    'dataset', [dict(data_root='s3://bucket/nuscenes'), dict(data_root='nuscenes/in/ceph', backend_args=dict(backend='petrel'))]
)
def test_data_that_is_not_on_this_machine_is_left_to_its_backend(run, dataset):
    _, cfg = run
    cfg.train_dataloader.dataset.dataset.update(dataset)
    assert check_start(cfg) is None


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
    assert check_start(cfg) is None


def test_all_problems_come_at_once_and_weights_name_their_place(run):
    _, cfg = run
    cfg.load_from = 'no/lidar.pth'
    cfg.model = dict(img_backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='no/swin.pth')), neck=None)
    text = problems_of(cfg)
    assert 'load_from names no/lidar.pth' in text and 'model.img_backbone.init_cfg.checkpoint names no/swin.pth' in text


def test_addresses_of_weights_are_left_to_the_loader(run):
    _, cfg = run
    cfg.load_from = 'https://example.org/x.pth'
    assert check_start(cfg) is None


def test_what_a_toy_lacks_comes_without_advice_on_nuscenes_or_bevfusion(run):
    folder, cfg = run
    toy = dict(type='ToyData', data_root='no/such/folder')
    text = problems_of(
        Config(
            dict(train_dataloader=dict(dataset=toy), train_cfg=dict(max_epochs=1), load_from='no/start.pth', model=dict(type='ToyModel'))
        )
    )
    assert 'no/such/folder does not exist' in text and 'load_from names no/start.pth, which does not exist; set load_from' in text
    assert not any(word in text.lower() for word in ('lidar', 'sweeps', 'nuscenes', 'bevfusion', 'map'))


def test_a_missing_start_of_the_camera_stage_is_told_of_the_lidar_stage(run):
    _, cfg = run
    cfg.update(load_from='no/lidar.pth', model=dict(type='BEVFusion', img_backbone=dict(type='Swin'), view_transform=dict(type='LSS')))
    assert 'train the lidar stage first' in problems_of(cfg)


def test_nothing_is_changed_whatever_the_environment_says(run, monkeypatch):
    _, cfg = run
    cfg.load_from = 'no/lidar.pth'
    before = cfg.to_dict()
    monkeypatch.setenv('NUSCENES_SAMPLE', 'anything')
    problems_of(cfg)
    assert cfg.to_dict() == before


def test_only_what_is_missing_stops_where_the_recipe_is_not_asked_for(run):
    _, cfg = run
    cfg.update(
        train_cfg=dict(by_epoch=True, max_epochs=10),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        param_scheduler=[dict(type='CosineAnnealingLR', by_epoch=True, T_max=4, end=4)],
    )
    with pytest.raises(UsageError, match='schedule-ends-early') as error:
        check_start(cfg)
    assert '--no-doctor starts it as it is' in str(error.value) and 'cannot start' not in str(error.value)
    assert check_start(cfg, needs_only=True) is None and check_start(cfg, training=False) is None


def test_the_ranks_of_a_launched_training_count(run, monkeypatch):
    _, cfg = run
    cfg.update(launcher='pytorch', auto_scale_lr=dict(base_batch_size=32), optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)))
    cfg.train_dataloader.batch_size = 8
    monkeypatch.setenv('WORLD_SIZE', '4')
    assert check_start(cfg) is None
    monkeypatch.setenv('WORLD_SIZE', '1')
    with pytest.raises(UsageError, match='lr-off-the-batch'):
        check_start(cfg)


@pytest.mark.parametrize('training', [True, False])
def test_more_processes_than_gpus_are_refused_before_a_process_group_is_made(run, monkeypatch, training):
    monkeypatch.setattr('torch.cuda.is_available', lambda: True)
    monkeypatch.setattr('torch.cuda.device_count', lambda: 2)
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '3')
    monkeypatch.setenv('WORLD_SIZE', '3')
    cfg = run[1]
    cfg.launcher = 'pytorch'
    assert '3 processes were started on this machine, which has 2 GPUs' in problems_of(cfg, training)


@pytest.mark.parametrize('rank, lines', [('0', 1), ('1', 0)])
def test_cards_that_may_hang_are_said_once_before_the_run_starts(run, monkeypatch, rank, lines):
    for name, value in dict(RANK=rank, WORLD_SIZE='2', LOCAL_WORLD_SIZE='2').items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv('NCCL_P2P_DISABLE', raising=False)
    monkeypatch.setattr('torch.cuda.is_available', lambda: True)
    monkeypatch.setattr('torch.cuda.device_count', lambda: 2)
    monkeypatch.setattr('torch.cuda.get_device_name', lambda index: 'NVIDIA GeForce RTX 4090')
    said = []
    monkeypatch.setattr('bevfusion_plugin.launch.start_check.print_log', lambda text, *_: said.append(text))
    check_start(Config(dict(run[1], launcher='pytorch', env_cfg=dict(dist_cfg=dict(backend='nccl')))))
    assert len(said) == lines and all('set NCCL_P2P_DISABLE=1' in text for text in said)


@pytest.mark.parametrize('training', [True, False])
def test_a_metric_that_does_not_know_the_classes_stops_a_training_and_a_test_before_they_start(run, training):
    _, cfg = run
    for dataset in (cfg.train_dataloader.dataset.dataset, cfg.val_dataloader.dataset, cfg.test_dataloader.dataset):
        dataset.metainfo = dict(classes=['car', 'tram'])
    assert "NuScenesMetric scores nuScenes' classes, and the data set has tram; score classes of your own" in problems_of(cfg, training)
    cfg.train_cfg.val_begin = 9
    assert training is False or check_start(cfg, training) is None
