"""Our names beside MMEngine's: under every default scope, and from a config that never imports this package."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.optim.scheduler import OneCycleParamScheduler as StockOneCycle
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, PARAM_SCHEDULERS, DefaultScope
from mmengine.runner import Runner
from toy_models_openpcdet import MLP
from users_script import mmdet3d_train_script

import bevfusion_plugin
from bevfusion_plugin.engine import OneCycleParamScheduler, OpenPCDetOptimWrapperConstructor

TESTS = Path(__file__).parents[2]
NAMES = ('OneCycleParamScheduler', 'CosineAnnealingParamScheduler', 'StepDecayLR', 'CosineWarmupLR')
SCOPES = ('mmengine', 'mmdet', 'mmdet3d', 'bevfusion_plugin')


@pytest.fixture
def default_scope(request):
    if request.param.startswith('mmdet'):
        pytest.importorskip(request.param)
    with DefaultScope.overwrite_default_scope(request.param):
        yield request.param


def test_mmengines_own_names_keep_their_meaning():
    assert PARAM_SCHEDULERS.get('OneCycleParamScheduler') is StockOneCycle
    assert PARAM_SCHEDULERS.get('bevfusion_plugin.OneCycleParamScheduler') is OneCycleParamScheduler
    assert all(hasattr(bevfusion_plugin, name) for name in (*NAMES, 'OpenPCDetOptimWrapperConstructor', 'layer_groups'))


@pytest.mark.parametrize('default_scope', SCOPES, indirect=True)
@pytest.mark.parametrize('kind', ['bevfusion_plugin.OneCycleParamScheduler', OneCycleParamScheduler], ids=['name', 'class'])
@pytest.mark.parametrize('convert_to_iter_based', [True, False])
def test_the_scheduler_builds_under_every_default_scope(default_scope, kind, convert_to_iter_based):
    wrapper = OptimWrapper(torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))], lr=1e-3))
    scheduler = PARAM_SCHEDULERS.build(
        dict(type=kind, end=4, convert_to_iter_based=convert_to_iter_based), default_args=dict(optimizer=wrapper, epoch_length=5)
    )
    assert type(scheduler) is OneCycleParamScheduler
    assert scheduler.total_steps == (20 if convert_to_iter_based else 4)


@pytest.mark.parametrize('default_scope', SCOPES, indirect=True)
@pytest.mark.parametrize(
    'kind', ['bevfusion_plugin.OpenPCDetOptimWrapperConstructor', OpenPCDetOptimWrapperConstructor], ids=['name', 'class']
)
def test_the_constructor_builds_under_every_default_scope(default_scope, kind):
    config = dict(type=kind, optim_wrapper_cfg=dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3)))
    assert len(OPTIM_WRAPPER_CONSTRUCTORS.build(config)(MLP(2, 3, 1)).optimizer.param_groups) == 2


@pytest.mark.parametrize('default_scope', SCOPES[:3], indirect=True)
@pytest.mark.parametrize('name', ['StepDecayLR', 'CosineWarmupLR', 'OneCycleParamScheduler'])
def test_a_bare_name_never_means_ours_elsewhere(default_scope, name):
    assert PARAM_SCHEDULERS.get(name) is (StockOneCycle if name == 'OneCycleParamScheduler' else None)


CONFIG = """
default_scope = '{scope}'
custom_imports = dict(imports={imports!r}, allow_failed_imports=False)
model = dict(type='mmengine.ToyRecorder')
train_dataloader = dict(batch_size=1, num_workers=0, dataset=dict(type='mmengine.ToyOnes', length=5),
                        collate_fn=dict(type='default_collate'), sampler=dict(type='DefaultSampler', shuffle=False))
train_cfg = dict(by_epoch=True, max_epochs=4)
optim_wrapper = dict(type='OptimWrapper', constructor='bevfusion_plugin.OpenPCDetOptimWrapperConstructor',
                     optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.01), clip_grad=dict(max_norm=10))
param_scheduler = [dict(type='bevfusion_plugin.OneCycleParamScheduler', convert_to_iter_based=True)]
default_hooks = dict(logger=dict(type='LoggerHook', interval=1))
"""


def logged_lrs(work_dir: Path) -> list[float]:
    """The LR that the log shows at each iteration; MMEngine logs before its scheduler steps."""
    lines = next(work_dir.glob('*/vis_data/scalars.json')).read_text().splitlines()
    return [json.loads(line)['lr'] for line in lines]


def expected_lrs() -> list[float]:
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))], lr=1e-3)
    scheduler = OneCycleParamScheduler(optimizer, end=20, by_epoch=False)
    lrs = []
    for _ in range(20):
        lrs.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        scheduler.step()
    return lrs


def test_mmdet3ds_own_train_script_trains_with_our_parts(tmp_path):
    pytest.importorskip('mmdet3d')
    script = mmdet3d_train_script(tmp_path)
    (tmp_path / 'toy.py').write_text(CONFIG.format(scope='mmdet3d', imports=['toy_models_openpcdet']))
    path = os.pathsep.join(map(str, [TESTS.parent, TESTS / 'stand_ins', TESTS / 'recorded']))
    environment = dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH=path)
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / 'toy.py'), '--work-dir', str(tmp_path / 'run')],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert logged_lrs(tmp_path / 'run') == pytest.approx(expected_lrs(), rel=1e-12)


def test_custom_imports_of_the_package_change_nothing(tmp_path):
    (tmp_path / 'toy.py').write_text(CONFIG.format(scope='mmengine', imports=['toy_models_openpcdet', 'bevfusion_plugin']))
    config = Config.fromfile(tmp_path / 'toy.py')
    config.work_dir = str(tmp_path / 'run')
    Runner.from_cfg(config).train()
    assert logged_lrs(tmp_path / 'run') == pytest.approx(expected_lrs(), rel=1e-12)


@pytest.mark.parametrize(
    'name',
    [
        'centerpoint/centerpoint_pillar02_second_secfpn_8xb4-cyclic-20e_nus-3d.py',
        'pointpillars/pointpillars_hv_secfpn_sbn-all_8xb4-2x_nus-3d.py',
    ],
)
def test_five_lines_turn_a_packaged_config_to_adam_onecycle(name, tmp_path):
    pytest.importorskip('mmdet3d')
    (tmp_path / 'overlay.py').write_text(OVERLAY.format(name=name))
    config = Config.fromfile(tmp_path / 'overlay.py')
    wrapper = bevfusion_plugin.registry.OPTIM_WRAPPER_CONSTRUCTORS.build(
        dict(type=config.optim_wrapper.pop('constructor'), optim_wrapper_cfg=config.optim_wrapper)
    )(MLP(2, 3, 1))
    schedulers = [
        PARAM_SCHEDULERS.build(cfg, default_args=dict(optimizer=wrapper, epoch_length=5, end=20)) for cfg in config.param_scheduler
    ]
    assert [type(scheduler) for scheduler in schedulers] == [OneCycleParamScheduler]
    assert schedulers[0].peak_lrs == [1e-3, 1e-3, 1e-3]
    assert config.model.type


OVERLAY = """
_base_ = 'mmdet3d::{name}'
optim_wrapper = dict(_delete_=True, type='OptimWrapper', constructor='bevfusion_plugin.OpenPCDetOptimWrapperConstructor',
                     optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.01), clip_grad=dict(max_norm=35, norm_type=2))
param_scheduler = [dict(type='bevfusion_plugin.OneCycleParamScheduler', moms=(0.95, 0.85), pct_start=0.4, div_factor=10,
                        convert_to_iter_based=True)]
"""
