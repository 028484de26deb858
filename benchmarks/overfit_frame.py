"""Can the whole chain learn? Overfits a reduced BEVFusion to one real nuScenes frame on a CPU.

    NUSCENES_SAMPLE=path/to/one_frame python benchmarks/overfit_frame.py            # lidar + camera
    NUSCENES_SAMPLE=path/to/one_frame python benchmarks/overfit_frame.py --lidar    # lidar alone

Data, losses, optimisation and decoding are the recipe's; nothing is augmented. Prints the fall of the loss and the share of ground-truth
boxes in range with at least 5 points that are found within 2 m, one to one, with the right class at a score of 0.3 or more.
"""
from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import Runner

import bevfusion_plugin  # noqa: F401
from bevfusion_plugin.visualization.training_curves import read_scalars

ROOT = Path(__file__).resolve().parents[1]
AUGMENTATIONS = ('BEVFusionGlobalRotScaleTrans', 'BEVFusionRandomFlip3D', 'PointShuffle')


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--lidar', action='store_true', help='leave the cameras out')
    parser.add_argument('--updates', type=int, default=400)
    parser.add_argument('--work-dir', default='work_dirs/overfit_frame')
    return parser.parse_args(argv)


def overfit_config(updates: int, lidar_only: bool, work_dir: str) -> Config:
    """The demo recipe on one frame without augmentation: finer cells, since neighbouring cells cannot both be proposals."""
    cfg = Config.fromfile(ROOT / 'configs' / 'bevfusion_demo.py')
    cfg.merge_from_dict({
        'work_dir': work_dir,
        'randomness': dict(seed=0),
        'optim_wrapper.accumulative_counts': 1,
        'param_scheduler.0.end': updates,
        'param_scheduler.0.by_epoch': False,
        'param_scheduler.0.convert_to_iter_based': False,
        'train_dataloader.batch_size': 1,
        'train_dataloader.num_workers': 0,
        'train_dataloader.persistent_workers': False,
        'val_dataloader.num_workers': 0,
        'val_dataloader.persistent_workers': False,
        'default_hooks.checkpoint.interval': updates,
        'default_hooks.checkpoint.by_epoch': False,
        'log_processor.by_epoch': False,
    })
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=updates, val_interval=updates)
    dataset = cfg.train_dataloader.dataset.dataset
    test_image_aug = [step for step in cfg.val_dataloader.dataset.pipeline if step.type.endswith('ImageAug3D')]
    dataset.pipeline = [step if not step.type.endswith('ImageAug3D') else test_image_aug[0] for step in dataset.pipeline
                        if step.type.split('.')[-1] not in AUGMENTATIONS]
    return finer_cells(cfg, lidar_only)
