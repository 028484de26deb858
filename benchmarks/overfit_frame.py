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
import time
from pathlib import Path

from lidar_only import drop_cameras
from mmengine.config import Config
from mmengine.runner import Runner

from bevfusion_plugin.launch.start_check import check_start
from bevfusion_plugin.launch.trial import fit_to_sample
from bevfusion_plugin.visualization.training_curves import read_scalars

ROOT = Path(__file__).resolve().parents[1]
DROPPED = ('bevfusion_plugin.BEVFusionRandomFlip3D', 'PointShuffle')
RANGE = [-54.0, -54.0, -5.0, 54.0, 54.0, 3.0]
VOXEL_SIZE, GRID_SIZE = [0.1125, 0.1125, 0.2], [960, 960, 41]  # 108 m / 0.1125 m = 960; 960 / 8 = 120 cells
STILL = dict(rot_range=[0.0, 0.0], scale_ratio_range=[1.0, 1.0], translation_std=0.0)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--lidar', action='store_true', help='leave the cameras out')
    parser.add_argument('--updates', type=int, default=400)
    parser.add_argument('--work-dir', default='work_dirs/overfit_frame')
    return parser.parse_args(argv)


def overfit_config(updates: int, lidar_only: bool, work_dir: str) -> Config:
    """The demo recipe on one frame, without augmentation and with finer cells: two neighbouring cells cannot both be proposals."""
    cfg = Config.fromfile(ROOT / 'configs' / 'bevfusion_demo.py')
    cfg.work_dir = work_dir
    cfg.randomness = dict(seed=0)
    cfg.optim_wrapper.update(accumulative_counts=1, total_batch_size=None)
    cfg.optim_wrapper.optimizer.lr = 2e-3  # for one sample an update
    cfg.param_scheduler[0].update(end=updates, by_epoch=False, convert_to_iter_based=False)
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=updates, val_interval=updates)
    cfg.log_processor.by_epoch = False
    cfg.default_hooks.checkpoint.update(interval=updates, by_epoch=False)
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.update(batch_size=1, num_workers=0, persistent_workers=False, prefetch_factor=None)
    dataset = cfg.train_dataloader.dataset.dataset
    test_steps = {step.type: step for step in cfg.val_dataloader.dataset.pipeline}
    replaced = {
        'bevfusion_plugin.ImageAug3D': test_steps['bevfusion_plugin.ImageAug3D'],
        'bevfusion_plugin.BEVFusionGlobalRotScaleTrans': dict(type='bevfusion_plugin.BEVFusionGlobalRotScaleTrans', **STILL),
    }
    dataset.pipeline = [replaced.get(step.type, step) for step in dataset.pipeline if step.type not in DROPPED]
    set_grid(cfg)
    for part in ('pts_middle_encoder', 'pts_backbone', 'pts_neck'):
        cfg.model[part].norm_cfg.momentum = 0.1  # 0.01 needs more updates than this to reach the statistics of the test
    if lidar_only:
        drop_cameras(cfg)
    return cfg


def set_grid(cfg: Config) -> None:
    """Full range and half the cell size, in every place that names them; the nearest proposal wins a box."""
    model = cfg.model
    model.data_preprocessor.voxelize_cfg.update(point_cloud_range=RANGE, voxel_size=VOXEL_SIZE, max_voxels=[60000, 60000])
    model.pts_middle_encoder.sparse_shape = GRID_SIZE
    head = model.bbox_head
    # So few updates give no time to take a box back from a far proposal that won it before the heatmap had its peaks.
    head.train_cfg.assigner.reg_cost.weight = 10.0
    head.train_cfg.update(point_cloud_range=RANGE, voxel_size=VOXEL_SIZE, grid_size=GRID_SIZE)
    head.test_cfg.update(pc_range=RANGE[:2], voxel_size=VOXEL_SIZE[:2], grid_size=GRID_SIZE)
    head.bbox_coder.update(pc_range=RANGE[:2], voxel_size=VOXEL_SIZE[:2])
    cell = VOXEL_SIZE[0] * 8 / 2  # the view transform halves its grid to the head's 8 voxels
    model.view_transform.update(xbound=[RANGE[0], RANGE[3], cell], ybound=[RANGE[1], RANGE[4], cell], dbound=[1.0, 60.0, 1.0])
    for dataset in (cfg.train_dataloader.dataset.dataset, cfg.val_dataloader.dataset):
        for step in dataset.pipeline:
            if step.type in ('PointsRangeFilter', 'ObjectRangeFilter'):
                step.point_cloud_range = RANGE


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 if the loss fell by 80 % and 80 % of the boxes were found, else 1."""
    args = parse_args(argv)
    if not os.environ.get('NUSCENES_SAMPLE'):
        sys.exit('set NUSCENES_SAMPLE to the folder of a nuScenes frame')
    cfg = overfit_config(args.updates, args.lidar, args.work_dir)
    fit_to_sample(cfg, training=True)
    check_start(cfg, needs_only=True)
    runner = Runner.from_cfg(cfg)
    began = time.perf_counter()
    runner.train()
    minutes = (time.perf_counter() - began) / 60
    scalars = read_scalars(args.work_dir)
    first, last = scalars['loss'][0][1], scalars['loss'][-1][1]
    recall = next(points[-1][1] for name, points in scalars.items() if name.endswith('recall@2m'))
    print(
        f'{"lidar" if args.lidar else "lidar + camera"}: {args.updates} updates in {minutes:.1f} min, loss {first:.2f} -> '
        f'{last:.2f} ({1 - last / first:.0%} less), {recall:.0%} of the boxes found'
    )
    return int(last > 0.2 * first or recall < 0.8)


if __name__ == '__main__':
    sys.exit(main())
