"""What the recipes promise in their docstrings, read off the built optimizers and schedulers."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS
from torch import nn

from bevfusion_plugin.doctor.case import Case
from bevfusion_plugin.doctor.examination import examine
from bevfusion_plugin.launch.flags import set_work_dir

CONFIGS = Path(__file__).parents[1] / 'configs'
RECIPES = sorted(path.name for path in CONFIGS.glob('bevfusion*.py'))
CBGS_SAMPLES = 123_580


@pytest.fixture(params=[name for name in RECIPES if name != 'bevfusion_demo.py'])
def cfg(request):
    return Config.fromfile(CONFIGS / request.param)


def plan_of(cfg, gpus=None):
    return Case(cfg, gpus or cfg.get('num_gpus', 8)).plan


def curve(cfg, batches_per_epoch, gpus=None):
    """(lr, beta1) of every update of a run with so many micro-batches an epoch."""
    cfg.optim_wrapper.accumulative_counts = plan_of(cfg, gpus).accumulative_counts  # as AutoScaleLRHook does where it is 'auto'
    wrapper = build_optim_wrapper(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), cfg.optim_wrapper)
    schedulers = [
        PARAM_SCHEDULERS.build(dict(entry), default_args=dict(optimizer=wrapper, epoch_length=batches_per_epoch))
        for entry in cfg.param_scheduler
    ]
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
    assert str(plan.total_batch_size) in docstring
    assert re.search(rf'{plan.world_size} (GPUs )?x {plan.samples_per_rank} ', docstring)
    updates = plan.updates_per_epoch(plan.batches_per_epoch(CBGS_SAMPLES)) * cfg.train_cfg.max_epochs
    if 'Updates' in docstring:
        assert f'{updates:,}' in docstring
    name = Path(cfg.filename).name
    command = f'tools/dist_train.sh configs/{name} {plan.world_size}' if 'num_gpus' in cfg else f'python tools/train.py configs/{name}'
    assert docstring.rstrip().endswith(f'    {command}')


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


def reference_curve(update):
    """(lr, beta1) of one of the reference's 23,172 updates, written out: half cosines from a third of 2e-4 up to it over 500 updates and
    down to 2e-8 at the end; beta1 from 0.9 down over 0.4 of the training and back."""

    def between(start, end, share):
        return end + (start - end) / 2 * (1 + math.cos(math.pi * share))

    end, peak, turn, low = 23_172, 500, 9268, 0.9 * 0.85 / 0.95
    lr = between(2e-4 / 3, 2e-4, update / peak) if update < peak else between(2e-4, 2e-8, (update - peak) / (end - peak))
    return lr, between(0.9, low, update / turn) if update < turn else between(low, 0.9, (update - turn) / (end - turn))


@pytest.mark.parametrize('gpus', [1, 2, 4, 8, 16])
def test_on_any_number_of_gpus_every_update_is_the_references(gpus):
    cfg = Config.fromfile(CONFIGS / 'bevfusion.py')
    case = Case(cfg, gpus)
    assert case.plan.total_batch_size == 32 and case.plan.accumulative_counts * case.plan.world_size * 2 == 32
    assert case.batches_per_epoch == 3862 * case.plan.accumulative_counts, 'whole windows alone'
    values = curve(cfg, case.batches_per_epoch, gpus)
    assert len(values) == 23_172
    np.testing.assert_allclose(values, [reference_curve(update) for update in range(23_172)], rtol=1e-12)
    np.testing.assert_allclose(values, curve(Config.fromfile(CONFIGS / 'bevfusion_8xb4.py'), 3862), rtol=1e-12)


@pytest.mark.parametrize('gpus', [1, 2, 4, 8])
def test_on_any_number_of_gpus_the_lidar_stage_makes_the_references_updates(gpus):
    case = Case(Config.fromfile(CONFIGS / 'bevfusion_lidar.py'), gpus)
    assert case.plan.total_batch_size == 32 and case.batches_per_epoch == 3862 * case.plan.accumulative_counts


@pytest.mark.parametrize('name, plans', [('bevfusion.py', '3 x 2 x A5 = 30'), ('bevfusion_lidar.py', '3 x 4 x A3 = 36')])
def test_three_gpus_are_refused_with_the_nearest_plans(name, plans):
    (problem,) = (
        finding
        for finding in examine(Case(Config.fromfile(CONFIGS / name), 3, quick=True), 'error', needs_only=False)
        if finding.rule == 'batch-plan-impossible'
    )
    assert f'nearest plans: {plans}' in problem.message


def test_the_fusion_stage_starts_where_the_lidar_stage_ends():
    lidar = Config.fromfile(CONFIGS / 'bevfusion_lidar.py')
    set_work_dir(lidar, None)
    assert Config.fromfile(CONFIGS / 'bevfusion.py').load_from == f'{lidar.work_dir}/epoch_{lidar.train_cfg.max_epochs}.pth'
    assert lidar.default_hooks.checkpoint.interval == 1 and lidar.default_hooks.checkpoint.max_keep_ckpts >= 1


def test_the_recipe_with_the_repeated_advice_has_its_numbers():
    cfg = Config.fromfile(CONFIGS / 'bevfusion_4x4090.py')
    assert (str(plan_of(cfg)), cfg.train_cfg.max_epochs, cfg.param_scheduler[0].end) == ('4 x 3 x A8 = 96', 8, 8)
    assert cfg.optim_wrapper.optimizer.lr == 2e-4 and not cfg.auto_scale_lr.enable


@pytest.mark.parametrize(
    'name, ratio',
    [
        ('bevfusion.py', 1.0),
        ('bevfusion_lidar.py', 1.0),
        ('bevfusion_4x4090.py', 3.0),
        ('bevfusion_4x4090_b32.py', 1.0),
        ('bevfusion_4x4090_autoscale.py', 1.125),
        ('bevfusion_8xb4.py', 1.0),
        ('bevfusion_pcdet_4x4090.py', 1.0),
        ('bevfusion_lidar_4x4090.py', 1.0),
        ('bevfusion_custom.py', 1.0),
    ],
)
def test_total_batches_stand_in_the_announced_ratio_to_the_base(name, ratio):
    assert plan_of(Config.fromfile(CONFIGS / name)).lr_ratio == ratio


@pytest.mark.parametrize('name', RECIPES)
def test_recipes_survive_a_round_trip_through_their_text(name, tmp_path):
    cfg = Config.fromfile(CONFIGS / name)
    cfg.dump(tmp_path / name)
    assert Config.fromfile(tmp_path / name).to_dict() == cfg.to_dict()


def test_every_pipeline_packs_what_moved_the_points_and_the_mode_of_the_boxes(cfg):
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        dataset = loader.dataset.get('dataset', loader.dataset)  # without the class balance around it
        assert {
            'box_mode_3d',
            'box_type_3d',
            'transformation_3d_flow',
            'pcd_rotation',
            'pcd_scale_factor',
            'pcd_trans',
            'pcd_horizontal_flip',
            'pcd_vertical_flip',
        } <= set(dataset.pipeline[-1].meta_keys)
