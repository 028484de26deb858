"""What the recipes promise in their docstrings, read off the built optimizers and schedulers."""
import re
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS
from torch import nn

from bevfusion_plugin import BatchPlan

CONFIGS = Path(__file__).parents[1] / 'configs'
RECIPES = sorted(path.name for path in CONFIGS.glob('bevfusion_*.py'))
CBGS_SAMPLES = 123_580


@pytest.fixture(params=[name for name in RECIPES if name != 'bevfusion_demo.py'])
def cfg(request):
    return Config.fromfile(CONFIGS / request.param)


def plan_of(cfg):
    return BatchPlan(cfg.num_gpus, cfg.train_dataloader.batch_size, cfg.optim_wrapper.accumulative_counts,
                     cfg.auto_scale_lr.base_batch_size, cfg.auto_scale_lr.rule)


def curve(cfg, batches_per_epoch):
    """(lr, beta1) of every update of a run with so many micro-batches an epoch."""
    wrapper = build_optim_wrapper(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), cfg.optim_wrapper)
    schedulers = [PARAM_SCHEDULERS.build(dict(entry), default_args=dict(optimizer=wrapper, epoch_length=batches_per_epoch))
                  for entry in cfg.param_scheduler]
    values = []
    A = cfg.optim_wrapper.accumulative_counts
    for _ in range(cfg.train_cfg.max_epochs * -(-batches_per_epoch // A)):
        values.append((wrapper.param_groups[0]['lr'], wrapper.param_groups[0]['betas'][0]))
        wrapper._inner_count += A
        for scheduler in schedulers:
            scheduler.step()
    return values


def test_every_recipe_opens_with_its_arithmetic_and_its_command(cfg):
    text = Path(cfg.filename).read_text()
    docstring = text.split('"""')[1]
    plan = plan_of(cfg)
    assert str(plan.total_batch_size) in docstring and f'{plan.world_size} GPUs x {plan.samples_per_rank} samples' in docstring
    updates = plan.updates_per_epoch(plan.batches_per_epoch(CBGS_SAMPLES)) * cfg.train_cfg.max_epochs
    if 'Updates' in docstring:
        assert f'{updates:,}' in docstring
    assert re.search(rf'tools/dist_train.sh configs/{Path(cfg.filename).name} {plan.world_size}', docstring)


def test_recipes_keep_beta1_in_its_range_and_reach_their_peak(cfg):
    plan = plan_of(cfg)
    values = curve(cfg, 400 * plan.accumulative_counts)
    lrs, betas = zip(*values)
    assert len(values) == 400 * cfg.train_cfg.max_epochs
    assert max(lrs) == pytest.approx(cfg.lr, rel=0.03)
    assert min(betas) == pytest.approx(0.9 * 0.85 / 0.95, abs=1e-3) and max(betas) <= 0.9 + 1e-9
    turn = betas.index(min(betas)) / len(betas)
    assert turn == pytest.approx(0.4, abs=0.02), 'beta1 turns at 0.4 of the training'


def test_fusion_recipe_follows_the_reference_curve():
    cfg = Config.fromfile(CONFIGS / 'bevfusion_8xb4.py')
    values = curve(cfg, 3862)
    lrs = [lr for lr, _ in values]
    assert len(lrs) == 23_172
    assert lrs[0] == pytest.approx(2e-4 / 3) and lrs[500] == 2e-4 and lrs[-1] == pytest.approx(2e-8, rel=0.1)


@pytest.mark.parametrize('name, ratio', [
    ('bevfusion_4x4090.py', 3.0), ('bevfusion_4x4090_b32.py', 1.0), ('bevfusion_4x4090_autoscale.py', 1.125),
    ('bevfusion_8xb4.py', 1.0), ('bevfusion_pcdet_4x4090.py', 1.0), ('bevfusion_lidar_4x4090.py', 1.0)])
def test_total_batches_stand_in_the_announced_ratio_to_the_base(name, ratio):
    assert plan_of(Config.fromfile(CONFIGS / name)).lr_ratio == ratio


@pytest.mark.parametrize('name', RECIPES)
def test_recipes_survive_a_round_trip_through_their_text(name, tmp_path):
    cfg = Config.fromfile(CONFIGS / name)
    cfg.dump(tmp_path / name)
    assert Config.fromfile(tmp_path / name).to_dict() == cfg.to_dict()
