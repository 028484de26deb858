"""tools/train.py from the outside: what it refuses, and that other people's configs and train scripts take our parts."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from goldens import nuscenes_sample
from mmengine.runner import Runner
from tool_loading import load_tool
from toy_training import TOY_CONFIG
from users_script import mmdet3d_train_script

import bevfusion_plugin  # noqa: F401  allows MMEngine's checkpoints to be loaded
from bevfusion_plugin.engine.hooks.divergence_sentinel_hook import TrainingDiverged

ROOT = Path(__file__).parents[2]

OVERLAY = """
_base_ = 'mmdet3d::pointpillars/pointpillars_hv_secfpn_sbn-all_8xb4-2x_nus-3d.py'
train_dataloader = dict(batch_size=1, num_workers=0, persistent_workers=False, dataset=dict(data_root={root!r}))
optim_wrapper = dict(
    _delete_=True,
    type='bevfusion_plugin.AccumulativeAmpOptimWrapper',
    constructor='bevfusion_plugin.OpenPCDetOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.01),
    accumulative_counts=2,
    dtype='float32',  # mmdet3d's naive SyncBN takes nothing else
    clip_grad=dict(max_norm=35, norm_type=2))
param_scheduler = [dict(type='bevfusion_plugin.OneCycleParamScheduler', by_epoch=False, end=8)]
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=4)
val_cfg = val_dataloader = val_evaluator = None
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=4, by_epoch=False))
custom_hooks = [dict(type='bevfusion_plugin.TrainingMonitorHook')]
log_processor = dict(by_epoch=False)
"""

TOY = (
    TOY_CONFIG
    + """
train_cfg = dict(by_epoch=True, max_epochs=2)
optim_wrapper = dict(type='bevfusion_plugin.AccumulativeAmpOptimWrapper', dtype='float32', optimizer=dict(type='SGD', lr=0.1),
                     accumulative_counts='auto', total_batch_size=4)
custom_hooks = [dict(type='bevfusion_plugin.AutoScaleLRHook')]
env_cfg = dict(dist_cfg=dict(backend='gloo'))
"""
)


@pytest.fixture(scope='module')
def train():
    return load_tool('train')


@pytest.fixture(autouse=True)
def no_sample(monkeypatch):
    monkeypatch.delenv('NUSCENES_SAMPLE', raising=False)


@pytest.mark.parametrize('config', sorted(path.name for path in (ROOT / 'configs').glob('*.py')))
def test_every_recipe_says_at_once_which_data_is_missing(train, config, tmp_path, capsys):
    status = train.main([str(ROOT / 'configs' / config), '--work-dir', str(tmp_path), '--cfg-options', f'data_root={tmp_path}/nowhere'])
    assert status == 2
    assert f'the data folder {tmp_path}/nowhere does not exist' in capsys.readouterr().err
    assert not list(tmp_path.iterdir()), 'nothing may be written before the run can start'


def test_missing_weights_are_named(train, tmp_path, capsys):
    assert train.main([str(ROOT / 'configs' / 'bevfusion_4x4090.py'), '--cfg-options', f'data_root={tmp_path}']) == 2
    text = capsys.readouterr().err
    assert 'load_from names work_dirs/bevfusion_lidar/epoch_20.pth' in text
    assert 'model.img_backbone.init_cfg.checkpoint names checkpoints/swint-nuimages-pretrained.pth' in text


@pytest.mark.skipif(torch.cuda.is_available(), reason='this machine has a GPU')
def test_cuda_asked_for_and_absent_is_an_error(train, capsys):
    assert train.main([str(ROOT / 'configs' / 'bevfusion_4x4090.py'), '--launcher', 'pytorch']) == 2
    assert 'nccl, which needs CUDA, and torch finds no GPU' in capsys.readouterr().err


def test_missing_config_and_checkpoint_are_errors(train, capsys):
    assert train.main(['nowhere.py']) == 2
    assert train.main([str(ROOT / 'configs' / 'bevfusion_demo.py'), '--resume', 'nowhere.pth']) == 2
    text = capsys.readouterr().err
    assert 'there is no config nowhere.py' in text and 'there is no checkpoint nowhere.pth' in text


def test_unknown_component_is_named(train, tmp_path, capsys):
    config = tmp_path / 'toy.py'
    config.write_text(
        "model = dict(type='bevfusion_plugin.NoSuchModel')\ntrain_dataloader = dict()\n"
        "optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1))\ntrain_cfg = dict(max_epochs=1, by_epoch=True)\n"
    )
    assert train.main([str(config), '--work-dir', str(tmp_path / 'work')]) == 2
    assert "there is no model called 'bevfusion_plugin.NoSuchModel'" in capsys.readouterr().err


def test_a_packaged_mmdet3d_config_trains_with_our_parts_through_mmdet3ds_own_script(tmp_path):
    config = tmp_path / 'overlay.py'
    config.write_text(OVERLAY.format(root=str(nuscenes_sample())))
    result = subprocess.run(
        [sys.executable, str(mmdet3d_train_script(tmp_path)), str(config), '--work-dir', str(tmp_path / 'work')],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    log = next((tmp_path / 'work').glob('*/*.log')).read_text()
    assert [int(count) for count in re.findall(r'update: (\d+)', log)] == [0, 1, 1, 2], 'two windows of two micro-batches'
    checkpoint = torch.load(tmp_path / 'work' / 'iter_4.pth')
    assert checkpoint['param_schedulers'][0]['last_step'] == 2, 'the schedule counts updates'
    assert all(value.isfinite().all() for value in checkpoint['state_dict'].values())


@pytest.fixture
def alone_in_a_group(tmp_path, monkeypatch):
    """A toy config for the only process of a group, with the environment that a launcher gives."""
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    for name, value in dict(LOCAL_RANK='0', OMP_NUM_THREADS='1', MKL_NUM_THREADS='1').items():
        monkeypatch.setenv(name, value)
    config = tmp_path / 'toy.py'
    config.write_text(TOY + f"env_cfg['dist_cfg'].update(init_method='file://{tmp_path}/store', rank=0, world_size=1)\n")
    return [str(config), '--work-dir', str(tmp_path / 'work'), '--launcher', 'pytorch']


def test_a_trained_process_is_in_no_group_any_more(train, alone_in_a_group, tmp_path):
    assert train.main(alone_in_a_group) == 0
    assert (tmp_path / 'work' / 'epoch_2.pth').is_file() and not torch.distributed.is_initialized()


@pytest.mark.parametrize(
    'error',
    [TrainingDiverged('the loss is 1e9'), RuntimeError('out of memory'), KeyboardInterrupt()],
    ids=lambda error: type(error).__name__,
)
def test_a_training_that_fails_is_in_no_group_any_more(train, alone_in_a_group, monkeypatch, capsys, error):
    def fail(runner):
        assert torch.distributed.is_initialized()
        raise error

    monkeypatch.setattr(Runner, 'train', fail)
    if isinstance(error, TrainingDiverged):
        assert train.main(alone_in_a_group) == 1 and 'the loss is 1e9' in capsys.readouterr().err
    else:
        with pytest.raises(type(error)) as raised:
            train.main(alone_in_a_group)
        assert raised.value is error
    assert not torch.distributed.is_initialized()
