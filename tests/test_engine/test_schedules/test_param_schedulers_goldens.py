"""Every recorded OpenPCDet schedule: built by hand, and inside a real Runner."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.runner import Runner
from toy_models_openpcdet import Recorded, ToyOnes, ToyRecorder
from toy_training import toy_loader

from bevfusion_plugin.engine import OneCycleParamScheduler, convert_optimization
from bevfusion_plugin.registry import PARAM_SCHEDULERS

SCHEDULES = Recorded('schedules')
BY_ID = {case['id']: case for case in SCHEDULES.cases}
ONE_CYCLES = [case['id'] for case in SCHEDULES.cases if case['kind'] == 'OneCycle']


def optimizer_for(optimization: dict[str, Any]) -> torch.optim.Optimizer:
    groups = [dict(params=[torch.nn.Parameter(torch.zeros(1))]) for _ in range(2)]
    if optimization['OPTIMIZER'] == 'sgd':
        return torch.optim.SGD(groups, lr=optimization['LR'], momentum=optimization['MOMENTUM'])
    return torch.optim.AdamW(groups, lr=optimization['LR'], betas=(0.9, 0.987))


def walk(optimizer: torch.optim.Optimizer, schedulers: list, steps: int) -> np.ndarray:
    """(steps, 2): the LR and beta1 or momentum that each update uses."""
    rows = []
    for _ in range(steps):
        first, *others = optimizer.param_groups
        momentum = first['betas'][0] if 'betas' in first else first['momentum']
        assert all(group['lr'] == first['lr'] for group in others)
        rows.append((first['lr'], momentum))
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    return np.array(rows)


def expected(case: dict[str, Any]) -> np.ndarray:
    """(n_steps, 2), with the last value held past the end instead of OpenPCDet's turn back up."""
    name = 'intended_composite_lr' if case['kind'] == 'CosineWarmupLR' else 'lr'
    lr = SCHEDULES.array(case, name)
    momentum = SCHEDULES.array(case, 'mom') if 'mom' in case['arrays'] else np.full(len(lr), 0.9)
    rows = np.stack([lr, momentum], 1)
    rows[case['total_steps'] :] = rows[case['total_steps'] - 1]
    return rows


def converted(case: dict[str, Any], iters_per_epoch: int | None) -> list[dict[str, Any]]:
    optimization = dict(case['optim_cfg'], NUM_EPOCHS=case['epochs'])
    return convert_optimization(optimization, iters_per_epoch)['param_scheduler']


@pytest.mark.parametrize('case_id', BY_ID)
def test_schedule_driven_by_hand_equals_openpcdet(case_id):
    case = BY_ID[case_id]
    optimizer = optimizer_for(case['optim_cfg'])
    schedulers = [PARAM_SCHEDULERS.build(cfg, default_args=dict(optimizer=optimizer)) for cfg in converted(case, case['iters_per_epoch'])]
    rows = expected(case)
    np.testing.assert_allclose(walk(optimizer, schedulers, len(rows)), rows, rtol=1e-12, atol=0)


def one_cycle(optimizer, settings, **length):
    return OneCycleParamScheduler(
        optimizer, moms=settings['MOMS'], pct_start=settings['PCT_START'], div_factor=settings['DIV_FACTOR'], by_epoch=False, **length
    )


@pytest.mark.parametrize('case_id', ONE_CYCLES)
def test_one_cycle_from_its_own_arguments_equals_openpcdet(case_id):
    case = BY_ID[case_id]
    settings = case['optim_cfg']
    optimizer = optimizer_for(settings)
    scheduler = one_cycle(optimizer, settings, total_steps=case['total_steps'])
    rows = expected(case)
    np.testing.assert_allclose(walk(optimizer, [scheduler], len(rows)), rows, rtol=1e-12, atol=0)
    assert all(group['betas'][1] == 0.987 for group in optimizer.param_groups)


def run_runner(case: dict[str, Any], work_dir: Path, accumulative_counts: int = 1) -> np.ndarray:
    """(updates, 2): what the updates of a real Runner used, with one sample a micro-batch."""
    settings = case['optim_cfg']
    optimizer = dict(type='SGD', momentum=settings['MOMENTUM']) if settings['OPTIMIZER'] == 'sgd' else dict(type='AdamW')
    runner = Runner(
        model=ToyRecorder(),
        work_dir=str(work_dir),
        experiment_name=work_dir.name,
        default_scope='mmengine',
        train_dataloader=toy_loader(ToyOnes(case['iters_per_epoch'] * accumulative_counts), batch_size=1),
        train_cfg=dict(by_epoch=True, max_epochs=case['epochs']),
        optim_wrapper=dict(type='OptimWrapper', optimizer=dict(lr=settings['LR'], **optimizer), accumulative_counts=accumulative_counts),
        param_scheduler=converted(case, None),
        default_hooks=dict(checkpoint=None, logger=None),
        log_level='ERROR',
    )
    runner.train()
    return np.array(runner.model.seen)


@pytest.mark.parametrize('case_id', [key for key, case in BY_ID.items() if case['total_steps'] <= 1000])
def test_schedule_inside_a_runner_equals_openpcdet(case_id, tmp_path):
    case = BY_ID[case_id]
    np.testing.assert_allclose(run_runner(case, tmp_path), expected(case)[: case['total_steps']], rtol=1e-12, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize('case_id', [key for key, case in BY_ID.items() if case['total_steps'] > 1000])
def test_long_schedule_inside_a_runner_equals_openpcdet(case_id, tmp_path):
    case = BY_ID[case_id]
    np.testing.assert_allclose(run_runner(case, tmp_path), expected(case)[: case['total_steps']], rtol=1e-12, atol=0)


@pytest.mark.parametrize('case_id', ['OneCycle/05', 'CosineAnnealing/04', 'LambdaLR/01', 'CosineWarmupLR/02'])
def test_update_k_uses_value_k_when_three_micro_batches_make_an_update(case_id, tmp_path):
    case = BY_ID[case_id]
    seen = run_runner(case, tmp_path, accumulative_counts=3)
    np.testing.assert_allclose(seen, expected(case)[: case['total_steps']], rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    'error',
    [error for error in SCHEDULES.json['errors'] if error['total_steps']],
    ids=lambda error: f'T{error["total_steps"]}_pct{error["optim_cfg"]["PCT_START"]}',
)
def test_settings_that_crash_openpcdet_start_at_the_peak(error):
    settings = error['optim_cfg']
    optimizer = optimizer_for(settings)
    scheduler = one_cycle(optimizer, settings, end=error['total_steps'])
    rows = walk(optimizer, [scheduler], error['total_steps'])
    assert np.isfinite(rows).all()
    starts_at_peak = rows[0, 0] == settings['LR'] and rows[0, 1] == settings['MOMS'][1]
    assert starts_at_peak == (error['error'] is not None)
