"""The training recipes that benchmarks/recipe.py compares, as changes of one small lidar-only config.

The real sizes are scaled down: 32 samples an update become 8, and the machine that holds too few of them at once (12 of 32) holds 4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lidar_only import drop_cameras
from mmengine.config import Config

ROOT = Path(__file__).resolve().parents[1]
REFERENCE_BATCH = 8
SMALL_BATCH = 4
EPOCHS = 6
TRAINING_SAMPLES = 64
ROUNDS = 3  # of them an epoch
LOGGED_SAMPLES = 32
BETA1 = 0.9
WARMUP_SHARE = 500 / 23172  # the reference's: 500 of its 23,172 updates


@dataclass(frozen=True)
class Variant:
    """One recipe: its letter, what it is in words, and the change that makes it out of the base config."""

    letter: str
    title: str
    change: Callable[[Config], None]


def base_config(data_root: str, lr: float) -> Config:
    """The demo's lidar branch and head on the keyframes of ``data_root``, no sweeps."""
    cfg = Config.fromfile(ROOT / 'configs' / 'bevfusion_demo.py')
    drop_cameras(cfg)
    cfg.train_dataloader.dataset = dict(type='RepeatDataset', times=ROUNDS, dataset=cfg.train_dataloader.dataset.dataset)
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        dataset = loader.dataset.get('dataset', loader.dataset)
        dataset.data_root = data_root
        dataset.pipeline = [dict(step, sweeps_num=0) if step.type == 'LoadPointsFromMultiSweeps' else step for step in dataset.pipeline]
        loader.update(num_workers=0, persistent_workers=False, prefetch_factor=None)
    cfg.test_dataloader = cfg.val_dataloader
    cfg.val_evaluator.update(data_root=data_root, ann_file=f'{data_root}/nuscenes_infos_val.pkl')
    cfg.test_evaluator = cfg.val_evaluator
    cfg.train_cfg = dict(by_epoch=True, max_epochs=EPOCHS, val_interval=EPOCHS)
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=1, max_keep_ckpts=1)
    cfg.visualizer = dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')])
    cfg.custom_hooks = [dict(type=f'bevfusion_plugin.{name}') for name in ('WindowHook', 'AutoScaleLRHook', 'EpochSeedHook')]
    cfg.param_scheduler = [our_schedule()]
    cfg.optim_wrapper = dict(
        type='bevfusion_plugin.AccumulativeAmpOptimWrapper',
        constructor='bevfusion_plugin.OpenPCDetOptimWrapperConstructor',
        optimizer=dict(type='AdamW', lr=lr, betas=(BETA1, 0.999), weight_decay=0.01),
        dtype='float32',
        accumulative_counts=1,
        clip_grad=dict(max_norm=35, norm_type=2),
    )
    cfg.auto_scale_lr = dict(enable=False, base_batch_size=REFERENCE_BATCH, rule='linear')
    return cfg


def log_every(cfg: Config, samples: int) -> None:
    """Log the mean of every ``samples`` samples, whatever the micro-batch is."""
    interval = samples // cfg.train_dataloader.batch_size
    cfg.default_hooks.logger.interval = interval
    cfg.log_processor.window_size = interval


def our_schedule() -> dict:
    """The one-cycle of configs/bevfusion_4x4090.py."""
    return dict(
        type='bevfusion_plugin.OneCycleParamScheduler',
        pct_start=WARMUP_SHARE,
        div_factor=3.0,
        final_div_factor=1e4 / 3.0,
        moms=(BETA1, BETA1 * 0.85 / 0.95),
        mom_pct_start=0.4,
        begin=0,
        end=EPOCHS,
        by_epoch=True,
        convert_to_iter_based=True,
    )


def batch(samples: int, accumulate: int = 1, rule: str | None = None) -> Callable[[Config], None]:
    """A change: ``samples`` a micro-batch, ``accumulate`` of them an update, the LR kept or scaled by ``rule``."""

    def change(cfg: Config) -> None:
        cfg.train_dataloader.batch_size = samples
        cfg.optim_wrapper.accumulative_counts = accumulate
        cfg.auto_scale_lr.update(enable=rule is not None, rule=rule or 'linear')

    return change


def stock(max_epochs: int) -> Callable[[Config], None]:
    """A change: MMEngine's own wrapper and ``auto_scale_lr`` under mmdetection3d's schedule, which ends at EPOCHS.

    Source: mmdetection3d projects/BEVFusion, the schedule of its lidar + camera config (values only).
    """

    def change(cfg: Config) -> None:
        micro_batches = EPOCHS * ROUNDS * TRAINING_SAMPLES // SMALL_BATCH
        turn = 0.4 * EPOCHS
        whole = dict(by_epoch=True, convert_to_iter_based=True)
        cfg.train_dataloader.batch_size = SMALL_BATCH
        cfg.custom_hooks = []
        cfg.train_cfg.update(max_epochs=max_epochs, val_interval=max_epochs)
        cfg.optim_wrapper = dict(
            type='OptimWrapper',
            optimizer=cfg.optim_wrapper.optimizer,
            accumulative_counts=REFERENCE_BATCH // SMALL_BATCH,
            clip_grad=dict(max_norm=35, norm_type=2),
        )
        cfg.param_scheduler = [
            dict(type='LinearLR', start_factor=1 / 3, by_epoch=False, begin=0, end=round(WARMUP_SHARE * micro_batches)),
            dict(type='CosineAnnealingLR', begin=0, T_max=EPOCHS, end=EPOCHS, eta_min_ratio=1e-4, **whole),
            dict(type='CosineAnnealingMomentum', eta_min=0.85 / 0.95, begin=0, T_max=turn, end=turn, **whole),
            dict(type='CosineAnnealingMomentum', eta_min=1, begin=turn, T_max=EPOCHS - turn, end=EPOCHS, **whole),
        ]
        cfg.auto_scale_lr = dict(enable=True, base_batch_size=REFERENCE_BATCH)

    return change


ACCUMULATE = REFERENCE_BATCH // SMALL_BATCH
VARIANTS = (
    Variant('a', f'reference: {REFERENCE_BATCH} samples an update', batch(REFERENCE_BATCH)),
    Variant('b', f'{SMALL_BATCH} samples, LR kept', batch(SMALL_BATCH)),
    Variant('c', f'{SMALL_BATCH} samples, LR scaled linearly', batch(SMALL_BATCH, rule='linear')),
    Variant('d', f'{SMALL_BATCH} samples, LR scaled by the square root', batch(SMALL_BATCH, rule='sqrt')),
    Variant('e', f'{SMALL_BATCH} samples x {ACCUMULATE} accumulated = {REFERENCE_BATCH}', batch(SMALL_BATCH, ACCUMULATE)),
    Variant(
        'f', f'{SMALL_BATCH} samples x {3 * ACCUMULATE} accumulated = {3 * REFERENCE_BATCH}, LR kept', batch(SMALL_BATCH, 3 * ACCUMULATE)
    ),
    Variant('g', f'MMEngine alone: {SMALL_BATCH} x {ACCUMULATE}, its auto_scale_lr, beta1 to 1', stock(EPOCHS)),
    Variant('h', 'as g, 10 epochs, the schedule still ends at 6', stock(10)),
)


def recipe_config(variant: Variant, data_root: str, lr: float) -> Config:
    """The whole config of ``variant`` with the peak ``lr`` of the reference batch."""
    cfg = base_config(data_root, lr)
    variant.change(cfg)
    log_every(cfg, LOGGED_SAMPLES)
    return cfg
