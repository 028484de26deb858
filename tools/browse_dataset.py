"""Write pictures of what the model will see, and numbers for whether cameras and lidar agree: look at them before you train.

A picture shows a sample after augmentation: lidar points over the camera pictures, coloured by depth, and the boxes, in the pictures and
from above. Points beside the things they belong to mean a wrong calibration. Printed, for each camera: how many lidar points in boxes its
pictures show, and the share that lands in the info file's box there. Where the info file has 2D boxes (cam_instances), a calibration one
degree off gives about 90 %, two degrees 75 %; where it has none, less than 100 % means an augmentation that the matrices leave out.

Examples:
    python tools/browse_dataset.py configs/bevfusion_custom.py
    python tools/browse_dataset.py configs/bevfusion.py --split val --number 50 --output-dir browse --cfg-options data_root=/data/nuscenes
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.logging import MMLogger
from rich.console import Console
from rich.progress import track
from terminaltables import AsciiTable

import bevfusion_plugin  # noqa: F401  brings mmcv's operators, before mmdet3d is imported
from bevfusion_plugin.doctor.reading.pipelines import SPLITS
from bevfusion_plugin.launch.command_line import UsageError, add_cfg_options, at_least_one, tool, tool_parser, user_errors
from bevfusion_plugin.launch.config_file import load_config
from bevfusion_plugin.launch.data_set import split_data_set
from bevfusion_plugin.launch.flags import set_work_dir
from bevfusion_plugin.visualization.camera_agreement import InBoxPoints, in_box_points
from bevfusion_plugin.visualization.detection_picture_hook import picture_name
from bevfusion_plugin.visualization.seen_sample import seen_figure, seen_sample

ENOUGH_INSIDE = 0.95  # of the points in boxes


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = tool_parser(__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('--split', choices=SPLITS, default='train', help='whose data loader (default: %(default)s)')
    parser.add_argument('--number', type=int, default=10, metavar='N', help='samples, spread over the data set (default: %(default)s)')
    parser.add_argument('--output-dir', help='where the pictures go (default: work_dirs/<config name>/browse)')
    add_cfg_options(parser)
    return parser.parse_args(argv)


@tool
def main(argv: list[str] | None = None) -> int:
    """Exit status: 0, or 1 where points land outside of their boxes, 2 when the data cannot be looked at."""
    args = parse_args(argv)
    at_least_one(args, '--number')
    with user_errors():
        cfg = load_config(args.config, args.cfg_options)
        set_work_dir(cfg, None)
        MMLogger.get_instance('browse_dataset', log_level=logging.ERROR)
        data = split_data_set(cfg, args.split)
        folder = Path(args.output_dir or Path(cfg.work_dir) / 'browse')
        folder.mkdir(parents=True, exist_ok=True)
        cameras = browse(data, args.number, folder)
    print(f'pictures: {folder}')
    if cameras:
        print(table(cameras))
    return warn(cameras)


def browse(data: Any, number: int, folder: Path) -> dict[str, InBoxPoints]:
    """Write the pictures; the numbers of each camera over all of them.

    Raises:
        UsageError: If a sample cannot be made or drawn.
    """
    cameras: dict[str, InBoxPoints] = {}
    class_names = getattr(data, 'metainfo', {}).get('classes', ())
    chosen = np.linspace(0, len(data) - 1, min(number, len(data))).round().astype(int)
    for index in track(chosen.tolist(), 'samples', console=Console(stderr=True)):
        np.random.seed(index)  # the same pictures every time
        try:
            seen, info = seen_sample(data[index]), data.get_data_info(index)
            is_own = str(info.get('sample_idx')) == seen.name  # else the frame had no boxes, and mmdet3d took another in its place
            found = in_box_points(seen, info) if is_own else {}
            remarks = [f'{each.inside} of {each.shown} points inside' for each in found.values()]
            seen_figure(seen, class_names, remarks).savefig(folder / picture_name(seen.name))
        except Exception as error:  # a pipeline can fail with anything
            raise UsageError(f'sample {index}: {type(error).__name__}: {error}') from error
        for name, points in found.items():
            cameras[name] = cameras.get(name, InBoxPoints()) + points
    return cameras


def table(cameras: dict[str, InBoxPoints]) -> str:
    """The numbers of the cameras, and of all together."""
    together = sum(cameras.values(), start=InBoxPoints())
    rows = [
        [name, f'{each.shown:,}', f'{each.share:.1%}' if each.shown else '-', '2D boxes' if each.boxes_2d else '3D boxes']
        for name, each in [*cameras.items(), ('all', together)]
    ]
    return AsciiTable([['camera', 'points in boxes', 'inside', 'of the info file\'s'], *rows]).table


def warn(cameras: dict[str, InBoxPoints]) -> int:
    """Name the cameras whose points land outside; the exit status."""
    wrong = [name for name, each in cameras.items() if each.share < ENOUGH_INSIDE]
    if wrong:
        print(
            f'{", ".join(wrong)}: lidar points in boxes lie elsewhere in the picture. Is it so without augmentation, too (--split val), then '
            'lidar2cam or cam2img of the info file is wrong, or belongs to another camera; else an augmentation is missing in '
            'lidar_aug_matrix or img_aug_matrix: use bevfusion_plugin.ImageAug3D, BEVFusionGlobalRotScaleTrans, BEVFusionRandomFlip3D',
            file=sys.stderr,
        )
    return int(bool(wrong))


if __name__ == '__main__':
    sys.exit(main())
