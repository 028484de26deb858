import pickle
from pathlib import Path

import pytest
from mmengine.config import Config

from bevfusion_plugin.doctor.case import Case
from bevfusion_plugin.doctor.reading.nuscenes import is_nuscenes_trainval

CONFIGS = Path(__file__).parents[2] / 'configs'
CATEGORIES = dict(car=0, bus=1)


def recipe(name='bevfusion_4x4090.py'):
    return Config.fromfile(CONFIGS / name)


def info(*labels, points=5, valid=True):
    return dict(instances=[dict(bbox_label_3d=label, num_lidar_pts=points, bbox_3d_isvalid=valid) for label in labels])


def infos(*frames):
    return dict(metainfo=dict(categories=CATEGORIES), data_list=list(frames))


def toy(tmp_path, wrapped=True, frames=(info(0), info(0), info(0, 1)), **loader):
    (tmp_path / 'infos.pkl').write_bytes(pickle.dumps(infos(*frames)))
    dataset = dict(type='NuScenesDataset', data_root=str(tmp_path), ann_file='infos.pkl', metainfo=dict(classes=['car', 'bus']))
    return Config(
        dict(
            train_dataloader=dict(batch_size=2, dataset=dict(type='CBGSDataset', dataset=dataset) if wrapped else dataset, **loader),
            optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-3)),
            train_cfg=dict(by_epoch=True, max_epochs=2),
        )
    )


def test_gpus_come_from_the_config_unless_they_are_given():
    cfg = recipe()
    assert (Case(cfg).world_size, Case(cfg, 2).world_size) == (4, 2)
    cfg.num_gpus = 'many'
    assert Case(cfg).world_size == 1
    cfg.pop('num_gpus')
    assert Case(cfg).world_size == 1


@pytest.mark.parametrize(
    'name, plan',
    [('bevfusion_4x4090.py', '4 x 3 x A8 = 96'), ('bevfusion_4x4090_b32.py', '4 x 2 x A4 = 32'), ('bevfusion_8xb4.py', '8 x 4 x A1 = 32')],
)
def test_the_plan_is_the_recipes(name, plan):
    case = Case(recipe(name))
    assert str(case.plan) == plan and case.plan.base_batch_size == 32


def test_accumulation_left_to_the_wrapper_is_derived():
    cfg = recipe()
    cfg.optim_wrapper.update(accumulative_counts='auto', total_batch_size=24)
    assert str(Case(cfg).plan) == '4 x 3 x A2 = 24'


def test_a_senseless_plan_raises_and_a_config_that_does_not_train_has_none():
    cfg = recipe()
    cfg.train_dataloader.batch_size = 0
    with pytest.raises(ValueError, match='got 0; set train_dataloader.batch_size|got 0; leave it out'):
        Case(cfg).plan
    assert Case(Config(dict(model=dict(type='X')))).plan is None


def test_nuscenes_counts_are_known_without_the_data():
    cfg = recipe()
    assert (Case(cfg).samples, Case(cfg).batches_per_epoch) == (123_580, 10_299)
    cfg.train_dataloader.dataset = cfg.train_dataloader.dataset.dataset
    assert Case(cfg).samples == 28_130
    cfg.train_dataloader.dataset.metainfo.version = 'v1.0-mini'
    assert Case(cfg).samples is None and not is_nuscenes_trainval(cfg.train_dataloader.dataset)


def test_samples_of_an_info_file_are_counted_as_the_sampler_draws_them(tmp_path):
    # car in 3 frames, bus in 1: shares 3/4 and 1/4, each class drawn int(4 / 2) times
    assert Case(toy(tmp_path)).samples == 4
    assert Case(toy(tmp_path, wrapped=False)).samples == 3


def test_repeated_data_count_as_often(tmp_path):
    cfg = toy(tmp_path, wrapped=False)
    cfg.train_dataloader.dataset = dict(type='RepeatDataset', times=3, dataset=cfg.train_dataloader.dataset)
    assert Case(cfg).samples == 9


def test_unknown_wrappers_make_the_number_unknown(tmp_path):
    cfg = toy(tmp_path, wrapped=False)
    cfg.train_dataloader.dataset = dict(type='ClassBalancedDataset', dataset=cfg.train_dataloader.dataset)
    assert Case(cfg).samples is None and Case(cfg).batches_per_epoch is None


def test_the_last_batch_may_be_dropped(tmp_path):
    assert Case(toy(tmp_path, wrapped=False)).batches_per_epoch == 2
    assert Case(toy(tmp_path, wrapped=False, drop_last=True)).batches_per_epoch == 1


def test_an_info_file_of_another_format_is_not_read(tmp_path):
    cfg = toy(tmp_path)
    (tmp_path / 'infos.pkl').write_bytes(pickle.dumps(dict(infos=[])))
    assert Case(cfg).info_file('train') is None


def test_a_quick_case_leaves_large_info_files_alone(tmp_path, monkeypatch):
    cfg = toy(tmp_path)
    monkeypatch.setattr('bevfusion_plugin.doctor.case.QUICK_BYTES', 10)
    assert Case(cfg, quick=True).info_file('train') is None and Case(cfg).info_file('train') is not None


def test_the_trace_covers_the_whole_training(tmp_path):
    trace = Case(toy(tmp_path)).trace
    assert trace.updates == 4 and set(trace.lr) == {1e-3}  # 2 epochs of 2 micro-batches


def test_a_quick_trace_is_shorter_and_has_the_same_shape():
    cfg = recipe('bevfusion_8xb4.py')
    quick = Case(cfg, quick=True).trace
    assert quick.batches_per_epoch == 500 and quick.lr.max() == pytest.approx(2e-4)
    assert quick.beta1.min() == pytest.approx(0.9 * 0.85 / 0.95, abs=1e-4)


def test_endless_trainings_are_not_stepped_through():
    cfg = recipe()
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=10**9)
    with pytest.raises(ValueError, match='1,000,000,000 micro-batches'):
        Case(cfg).trace
