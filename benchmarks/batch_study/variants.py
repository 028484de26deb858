"""The training recipes that benchmarks/recipe.py compares, as changes of one small lidar-only config.

The real sizes are scaled down by four: 32 samples an update become 8, a machine that holds 8 of them at once (1 x 8, 4 x 2) holds 2,
and 4 x 3 x 8 = 96 become 24. One process stands for all ranks, so a BatchNorm sees the whole micro-batch: the reference's, over 8
samples, is what SyncBN gives 4 ranks of 2; an accumulated one, over 2 or 1, is what ranks without SyncBN see.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from lidar_only import drop_cameras
from mmengine.config import Config

ROOT = Path(__file__).resolve().parents[2]
REFERENCE_BATCH = 8
SMALL_BATCH = 2
EPOCHS = 6
LATE_EPOCHS = 10  # of the schedule carried past its end
FOLDERS = 5  # synthetic data sets, each of another seed: 8 scenes to train on, 2 held out
TRAINING_SAMPLES = FOLDERS * 64
ROUNDS = 4  # of them an epoch
EPOCH_SAMPLES = ROUNDS * TRAINING_SAMPLES
LOGGED_SAMPLES = 160
BETA1 = 0.9
WARMUP_SHARE = 500 / 23172  # the reference's: 500 of its 23,172 updates
SWEEP = (2e-3, 4e-3, 8e-3, 1e-3)  # peak learning rates tried for the reference batch, the likeliest first

# Sizes, for a third of the time that the demo's detector takes a sample
VOXEL_SIZE = [0.3, 0.3, 0.4]
GRID_SIZE = [240, 240, 21]  # 72 m / 0.3 m = 240; 8 / 0.4 + 1 = 21
PROPOSALS = 64  # 48 objects a scene


@dataclass(frozen=True)
class Variant:
    """One recipe.

    Args:
        letter: Its name.
        title: What it is in words.
        samples: Samples a micro-batch.
        accumulate: Micro-batches an update.
        rule: How the learning rate follows the batch; None: it is kept.
        epochs: Epochs trained.
        stock: Whether MMEngine's own wrapper and mmdetection3d's schedule train it.
        bn_momentum_correction: The wrapper's setting.
    """

    letter: str
    title: str
    samples: int
    accumulate: int = 1
    rule: str | None = None
    epochs: int = EPOCHS
    stock: bool = False
    bn_momentum_correction: bool = False

    @property
    def batch(self) -> int:
        """Samples an update."""
        return self.samples * self.accumulate

    def updates(self, samples: int) -> int:
        """Updates after ``samples`` samples; a window ends with its epoch."""
        epochs, rest = divmod(samples, EPOCH_SAMPLES)
        return epochs * -(-EPOCH_SAMPLES // self.batch) + rest // self.batch


ACCUMULATE = REFERENCE_BATCH // SMALL_BATCH
TRIPLE = dict(samples=SMALL_BATCH, accumulate=3 * ACCUMULATE)
STOCK = dict(samples=SMALL_BATCH, accumulate=ACCUMULATE, rule='linear', stock=True)
VARIANTS = (
    Variant('a', f'reference: {REFERENCE_BATCH} samples at once', REFERENCE_BATCH),
    Variant('b', f'{SMALL_BATCH} samples, LR kept', SMALL_BATCH),
    Variant('c', f'{SMALL_BATCH} samples, LR scaled linearly', SMALL_BATCH, rule='linear'),
    Variant('d', f'{SMALL_BATCH} samples, LR scaled by the square root', SMALL_BATCH, rule='sqrt'),
    Variant('e', f'{SMALL_BATCH} x {ACCUMULATE} accumulated = {REFERENCE_BATCH}', SMALL_BATCH, ACCUMULATE),
    Variant('f', f'{SMALL_BATCH} x {3 * ACCUMULATE} = {3 * REFERENCE_BATCH}, LR kept', **TRIPLE),
    Variant('g', f'{3 * REFERENCE_BATCH}, LR scaled by the square root', rule='sqrt', **TRIPLE),
    Variant('h', f'{3 * REFERENCE_BATCH}, LR scaled linearly', rule='linear', **TRIPLE),
    Variant('i', f'{3 * REFERENCE_BATCH}, LR kept, 8 epochs', epochs=8, **TRIPLE),
    Variant('j', f'MMEngine alone: {SMALL_BATCH} x {ACCUMULATE}, its auto_scale_lr, beta1 to 1', **STOCK),
    Variant('k', f'as j, {LATE_EPOCHS} epochs, the schedule still ends at {EPOCHS}', epochs=LATE_EPOCHS, **STOCK),
    Variant('l', 'as e, with bn_momentum_correction', SMALL_BATCH, ACCUMULATE, bn_momentum_correction=True),
    Variant('m', f'1 x {REFERENCE_BATCH} accumulated: BatchNorm sees one sample', 1, REFERENCE_BATCH),
)
BY_LETTER = {variant.letter: variant for variant in VARIANTS}


def small_detector(cfg: Config) -> None:
    """Make the demo's lidar detector smaller in place: coarser voxels, one convolution a stage, fewer proposals."""
    cfg.model.data_preprocessor.voxelize_cfg.voxel_size = VOXEL_SIZE
    cfg.model.pts_middle_encoder.update(
        sparse_shape=GRID_SIZE,
        block_type='conv_module',
        encoder_channels=((16,), (24,), (32,), (32,)),
        encoder_paddings=((1,), (1,), (1,), (1,)),
    )
    cfg.model.pts_backbone.in_channels = 32  # one height is left
    head = cfg.model.bbox_head
    head.num_proposals = PROPOSALS
    head.train_cfg.update(grid_size=GRID_SIZE, voxel_size=VOXEL_SIZE)
    head.test_cfg.update(grid_size=GRID_SIZE, voxel_size=VOXEL_SIZE[:2])
    head.bbox_coder.voxel_size = VOXEL_SIZE[:2]


def without_sweeps(dataset: dict, root: str) -> dict:
    """The data set at ``root`` instead, key frames only."""
    pipeline = [dict(step, sweeps_num=0) if step.type == 'LoadPointsFromMultiSweeps' else step for step in dataset.pipeline]
    return dict(dataset, data_root=root, pipeline=pipeline)


def base_config(data: str, lr: float) -> Config:
    """A small lidar branch and head on the key frames of the folders 0, 1, ... in ``data``."""
    cfg = Config.fromfile(ROOT / 'configs' / 'bevfusion_demo.py')
    drop_cameras(cfg)
    small_detector(cfg)
    one = cfg.train_dataloader.dataset.dataset
    folders = [without_sweeps(one, f'{data}/{folder}') for folder in range(FOLDERS)]
    cfg.train_dataloader.dataset = dict(type='RepeatDataset', times=ROUNDS, dataset=dict(type='ConcatDataset', datasets=folders))
    cfg.val_dataloader.dataset = without_sweeps(cfg.val_dataloader.dataset, f'{data}/0')
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.update(num_workers=0, persistent_workers=False, prefetch_factor=None)
    cfg.test_dataloader = cfg.val_dataloader
    cfg.val_evaluator.update(data_root=f'{data}/0', ann_file=f'{data}/0/nuscenes_infos_val.pkl')
    cfg.test_evaluator = cfg.val_evaluator
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=1)
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
    return cfg


def log_every(cfg: Config, samples: int) -> None:
    """Log the mean of every ``samples`` samples, whatever the micro-batch is."""
    interval = samples // cfg.train_dataloader.batch_size
    cfg.default_hooks.logger.interval = interval
    cfg.log_processor.window_size = interval


def our_schedule() -> dict:
    """The one-cycle of configs/bevfusion_4x4090.py; it ends with the training."""
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


def use_stock(cfg: Config) -> None:
    """MMEngine's own wrapper under mmdetection3d's schedule, which ends at EPOCHS.

    Source: mmdetection3d projects/BEVFusion, the schedule of its lidar + camera config (values only).
    """
    micro_batches = EPOCHS * EPOCH_SAMPLES // cfg.train_dataloader.batch_size
    turn = 0.4 * EPOCHS
    whole = dict(by_epoch=True, convert_to_iter_based=True)
    cfg.custom_hooks = []
    cfg.optim_wrapper = dict(
        type='OptimWrapper',
        optimizer=cfg.optim_wrapper.optimizer,
        clip_grad=cfg.optim_wrapper.clip_grad,
        accumulative_counts=cfg.optim_wrapper.accumulative_counts,
    )
    cfg.param_scheduler = [
        dict(type='LinearLR', start_factor=1 / 3, by_epoch=False, begin=0, end=round(WARMUP_SHARE * micro_batches)),
        dict(type='CosineAnnealingLR', begin=0, T_max=EPOCHS, end=EPOCHS, eta_min_ratio=1e-4, **whole),
        dict(type='CosineAnnealingMomentum', eta_min=0.85 / 0.95, begin=0, T_max=turn, end=turn, **whole),
        dict(type='CosineAnnealingMomentum', eta_min=1, begin=turn, T_max=EPOCHS - turn, end=EPOCHS, **whole),
    ]
    cfg.auto_scale_lr = dict(enable=True, base_batch_size=REFERENCE_BATCH)


def recipe_config(variant: Variant, data: str, lr: float) -> Config:
    """The whole config of ``variant`` with the peak ``lr`` of the reference batch and the data in ``data``."""
    cfg = base_config(data, lr)
    cfg.train_dataloader.batch_size = variant.samples
    cfg.train_cfg = dict(by_epoch=True, max_epochs=variant.epochs, val_begin=variant.epochs + 1)  # scores.py validates
    cfg.optim_wrapper.update(accumulative_counts=variant.accumulate, bn_momentum_correction=variant.bn_momentum_correction)
    cfg.auto_scale_lr = dict(enable=variant.rule is not None, base_batch_size=REFERENCE_BATCH, rule=variant.rule or 'linear')
    if variant.stock:
        use_stock(cfg)
    else:
        cfg.param_scheduler[0]['end'] = variant.epochs
        if variant.accumulate > 1:
            cfg.default_hooks.logger.type = 'LoggerHook'  # MMEngine's counts micro-batches, ours updates
    log_every(cfg, LOGGED_SAMPLES)
    return cfg


def config_in_brief(variant: Variant, lr: float) -> dict:
    """What the recipe sets, and the SHA-256 of the whole config with the data in ``data``."""
    text = json.dumps(recipe_config(variant, 'data', lr).to_dict(), sort_keys=True, default=str)
    return dict(asdict(variant), lr=lr, sha256=hashlib.sha256(text.encode()).hexdigest())
