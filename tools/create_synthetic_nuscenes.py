"""Write a small synthetic nuScenes (v1.0-mini) that the devkit and mmdet3d read like the real one."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from bevfusion_plugin.synthetic_nuscenes import Settings, create_synthetic_nuscenes

EXAMPLE = 'example: python tools/create_synthetic_nuscenes.py --out data/synthetic_nuscenes --image-scale 0.25'


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLE)
    defaults = Settings()
    parser.add_argument('--out', type=Path, required=True, help='folder to write to')
    parser.add_argument('--scenes', type=int, default=defaults.scenes, help='2 to 10 (default: %(default)s)')
    parser.add_argument(
        '--samples-per-scene', type=int, default=defaults.samples_per_scene, help='keyframes a scene, 0.5 s apart (default: %(default)s)'
    )
    parser.add_argument('--seed', type=int, default=defaults.seed, help='default: %(default)s')
    parser.add_argument(
        '--image-scale', type=float, default=defaults.image_scale, help='image side as a share of 1600 x 900 (default: %(default)s)'
    )
    parser.add_argument(
        '--sweeps', type=int, default=defaults.sweeps, help='lidar sweeps between keyframes, 9 is 20 Hz (default: %(default)s)'
    )
    parser.add_argument(
        '--azimuth-steps',
        type=int,
        default=defaults.azimuth_steps,
        help='lidar firings a revolution, about 1090 in nuScenes (default: %(default)s)',
    )
    parser.add_argument('--workers', type=int, default=len(os.sched_getaffinity(0)), help='processes (default: all cores, %(default)s)')
    parser.add_argument('--overwrite', action='store_true', help='replace a synthetic nuScenes of other settings')
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    try:
        settings = Settings(args.scenes, args.samples_per_scene, args.seed, args.image_scale, args.sweeps, args.azimuth_steps)
        written = create_synthetic_nuscenes(args.out, settings, args.workers, args.overwrite)
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f'create_synthetic_nuscenes: {error}')
    samples = settings.scenes * settings.samples_per_scene
    print(f'{args.out}: {samples} samples in {settings.scenes} scenes {"written" if written else "were there already"}')


if __name__ == '__main__':
    main()
