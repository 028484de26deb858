"""What do the cameras add? The demo against the same training without its cameras, class by class.

    make demo                          # the fused one
    python benchmarks/fusion_gain.py   # the lidar-only one, as many samples and updates; then both side by side

In the demo's data a truck and a construction vehicle have the same shape, motion and reflectivity: only a camera tells them apart.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from lidar_only import drop_cameras
from mmengine.config import Config
from rich.console import Console
from rich.table import Table

from bevfusion_plugin.launch.ranks import rank_command
from bevfusion_plugin.synthetic_nuscenes.catalog import IMAGE_ONLY_PAIR
from bevfusion_plugin.visualization.evaluation_scores import class_precisions
from bevfusion_plugin.visualization.training_curves import read_scalars

ROOT = Path(__file__).resolve().parents[1]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--fused', default=str(ROOT / 'work_dirs' / 'bevfusion_demo'), help='work dir of the demo')
    parser.add_argument('--work-dir', default=str(ROOT / 'work_dirs' / 'lidar_demo'), help='where the lidar-only run goes')
    return parser.parse_args(argv)


def average_precisions(work_dir: str) -> dict[str, float]:
    """AP of each class, the mean over the devkit's four distances, at the last evaluation of a run."""
    return class_precisions({name: points[-1][1] for name, points in read_scalars(work_dir).items()})


def train_without_cameras(fused: str, work_dir: str) -> None:
    """Train the demo's config, as it was run in ``fused``, without its cameras."""
    config = max(Path(fused).glob('*/vis_data/config.py'), default=None)
    if config is None:
        sys.exit(f'{fused} holds no run of the demo; run `make demo` first, or name its work dir with --fused')
    cfg = Config.fromfile(config)
    drop_cameras(cfg)
    Path(work_dir).mkdir(parents=True, exist_ok=True)
    cfg.dump(f'{work_dir}/lidar_only.py')
    processes = 1 if cfg.get('launcher', 'none') == 'none' else 2  # as the demo was
    command = rank_command(processes, ROOT / 'tools' / 'train.py', f'{work_dir}/lidar_only.py', '--work-dir', work_dir, '--seed', '0')
    subprocess.run(command, cwd=ROOT, check=True, env={'OMP_NUM_THREADS': '1', **os.environ})


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 if the cameras help on every class that only they tell apart, else 1."""
    args = parse_args(argv)
    train_without_cameras(args.fused, args.work_dir)
    fused, lidar = average_precisions(args.fused), average_precisions(args.work_dir)
    table = Table('class', 'lidar', 'lidar + camera', 'difference', title='AP on the held-out scenes')
    for name in fused:
        table.add_row(
            name + ' (image only)' * (name in IMAGE_ONLY_PAIR),
            f'{lidar[name]:.3f}',
            f'{fused[name]:.3f}',
            f'{fused[name] - lidar[name]:+.3f}',
        )
    table.add_row('mean', *[f'{np.mean(list(scores.values())):.3f}' for scores in (lidar, fused)], '')
    Console().print(table)
    return int(any(fused[name] <= lidar[name] for name in IMAGE_ONLY_PAIR))


if __name__ == '__main__':
    sys.exit(main())
