import sys
from datetime import timedelta

import pytest
import torch
from mmengine.config import Config

from bevfusion_plugin.engine.hooks.auto_scale_lr_hook import AutoScaleLRHook
from bevfusion_plugin.launch.flags import (load_config, move_root, rank_command, set_amp, set_auto_scale_lr, set_resume,
                                            set_work_dir, start_cpu_ranks)
from bevfusion_plugin.engine.accumulation.optim_wrapper import AccumulativeAmpOptimWrapper

CONFIG = """
data_root = 'data/nuscenes'
train_dataloader = dict(dataset=dict(data_root=data_root, ann_file='train.pkl'))
val_evaluator = dict(ann_file=data_root + '/val.pkl', note='data/nuscenes_other')
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1))
"""


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / 'recipe.py'
    path.write_text(CONFIG)
    return path


def test_data_root_option_moves_every_path_below_it(config_file):
    cfg = load_config(config_file, dict(data_root='/elsewhere/'))
    assert cfg.train_dataloader.dataset.data_root == '/elsewhere'
    assert cfg.val_evaluator.ann_file == '/elsewhere/val.pkl'
    assert cfg.val_evaluator.note == 'data/nuscenes_other', 'a folder with a longer name is another folder'


def test_other_options_are_merged_as_usual(config_file):
    assert load_config(config_file, {'optim_wrapper.optimizer.lr': 0.5}).optim_wrapper.optimizer.lr == 0.5


def test_missing_config_is_named():
    with pytest.raises(FileNotFoundError, match='there is no config nowhere.py'):
        load_config('nowhere.py')


def test_move_root_keeps_types_and_the_given_value():
    value = {'a': ('x/y', ['x', 'xy', 3])}
    assert move_root(value, 'x', 'z') == {'a': ('z/y', ['z', 'xy', 3])}
    assert value == {'a': ('x/y', ['x', 'xy', 3])}


def test_work_dir_is_the_flag_then_the_config_then_the_name(config_file):
    cfg = load_config(config_file)
    set_work_dir(cfg, None)
    assert cfg.work_dir == 'work_dirs/recipe'
    set_work_dir(cfg, 'flag')
    assert cfg.work_dir == 'flag'


def test_amp_puts_in_our_wrapper_and_keeps_the_rest(config_file):
    cfg = load_config(config_file)
    set_amp(cfg)
    assert cfg.optim_wrapper.type == 'bevfusion_plugin.AccumulativeAmpOptimWrapper'
    assert cfg.optim_wrapper.dtype == 'float16' and cfg.optim_wrapper.optimizer.lr == 0.1


def test_new_style_configs_name_their_classes_themselves():
    cfg = Config(dict(optim_wrapper=dict(type=AccumulativeAmpOptimWrapper), custom_hooks=[dict(type=AutoScaleLRHook)],
                      auto_scale_lr=dict(base_batch_size=32)))
    set_amp(cfg)
    set_auto_scale_lr(cfg, 'linear')
    assert cfg.optim_wrapper.dtype == 'float16' and len(cfg.custom_hooks) == 1


def test_amp_refuses_an_unknown_wrapper():
    with pytest.raises(ValueError, match="does not know the optimizer wrapper 'DeepSpeed'"):
        set_amp(Config(dict(optim_wrapper=dict(type='DeepSpeed'))))


def test_auto_scale_lr_brings_its_hook_once():
    cfg = Config(dict(auto_scale_lr=dict(base_batch_size=32)))
    set_auto_scale_lr(cfg, 'sqrt')
    set_auto_scale_lr(cfg, 'sqrt')
    assert cfg.auto_scale_lr == dict(base_batch_size=32, enable=True, rule='sqrt')
    assert [hook['type'] for hook in cfg.custom_hooks] == ['bevfusion_plugin.AutoScaleLRHook']


def test_auto_scale_lr_needs_the_batch_the_lr_was_tuned_for():
    with pytest.raises(ValueError, match='auto_scale_lr.base_batch_size'):
        set_auto_scale_lr(Config(dict(auto_scale_lr=dict(enable=False))), 'linear')


def test_resume_auto_starts_as_configured_when_there_is_no_checkpoint_yet(tmp_path):
    cfg = Config(dict(work_dir=str(tmp_path), load_from='lidar.pth'))
    set_resume(cfg, 'auto')
    assert not cfg.get('resume') and cfg.load_from == 'lidar.pth'


def test_resume_auto_takes_the_newest_checkpoint_over_load_from(tmp_path):
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_1.pth'))
    cfg = Config(dict(work_dir=str(tmp_path), load_from='lidar.pth'))
    set_resume(cfg, 'auto')
    assert cfg.resume and cfg.load_from is None


@pytest.mark.parametrize('resume', ['auto', 'path'])
@pytest.mark.parametrize('randomness, seed', [(None, 7), (dict(deterministic=True), 7), (dict(seed=3), 3)])
def test_a_resumed_run_keeps_the_seed_of_its_checkpoint(tmp_path, resume, randomness, seed):
    checkpoint = str(tmp_path / 'epoch_1.pth')
    torch.save(dict(meta=dict(seed=7, epoch=1), state_dict={}), checkpoint)
    (tmp_path / 'last_checkpoint').write_text(checkpoint)
    cfg = Config(dict(work_dir=str(tmp_path), **({} if randomness is None else dict(randomness=randomness))))
    set_resume(cfg, 'auto' if resume == 'auto' else checkpoint)
    assert cfg.randomness == dict(randomness or {}, seed=seed)


def test_resume_from_a_missing_file_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match='there is no checkpoint'):
        set_resume(Config(dict(work_dir=str(tmp_path))), str(tmp_path / 'no.pth'))


def test_a_loader_without_workers_keeps_none_of_their_settings(tmp_path):
    (tmp_path / 'config.py').write_text('train_dataloader = dict(num_workers=4, persistent_workers=True, prefetch_factor=2)\n'
                                        'val_dataloader = dict(num_workers=4, persistent_workers=True)\n')
    cfg = load_config(tmp_path / 'config.py', {'train_dataloader.num_workers': 0})
    assert cfg.train_dataloader == dict(num_workers=0)
    assert cfg.val_dataloader == dict(num_workers=4, persistent_workers=True)


@pytest.fixture
def process_groups(monkeypatch):
    """The process groups that were asked for."""
    asked = []
    monkeypatch.setattr(torch.distributed, 'init_process_group', lambda **settings: asked.append(settings))
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    return asked


def test_processes_on_cpus_form_the_group_that_the_config_names(process_groups):
    cfg = Config(dict(launcher='pytorch', env_cfg=dict(dist_cfg=dict(backend='gloo', timeout=60)),
                      model_wrapper_cfg=dict(find_unused_parameters=True)))
    start_cpu_ranks(cfg)
    assert process_groups == [dict(backend='gloo', timeout=timedelta(seconds=60))]
    assert cfg.env_cfg.dist_cfg.timeout == 60
    assert cfg.model_wrapper_cfg == dict(broadcast_buffers=False, find_unused_parameters=True, device_ids=None)


def test_one_process_and_gpus_are_left_to_mmengine(process_groups, monkeypatch):
    alone = Config(dict(launcher='none', env_cfg=dict(dist_cfg=dict(backend='nccl'))))
    start_cpu_ranks(alone)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    on_gpus = Config(dict(launcher='pytorch', env_cfg=dict(dist_cfg=dict(backend='nccl'))))
    start_cpu_ranks(on_gpus)
    assert process_groups == [] and 'model_wrapper_cfg' not in alone and 'model_wrapper_cfg' not in on_gpus


def test_a_tool_is_run_alone_or_by_the_launcher():
    assert rank_command(1, 'train.py', 'c.py') == [sys.executable, 'train.py', 'c.py']
    several = rank_command(4, 'train.py', 'c.py')
    assert several[:3] == [sys.executable, '-m', 'torch.distributed.run'] and '--nproc_per_node=4' in several
    assert several[-4:] == ['train.py', 'c.py', '--launcher', 'pytorch']
