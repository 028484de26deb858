"""Evaluate a checkpoint.

Examples:
    python tools/test.py configs/bevfusion.py work_dirs/bevfusion/epoch_6.pth
    python tools/test.py configs/bevfusion.py work_dirs/bevfusion/epoch_6.pth --without camera

The scores are kept in the work dir, and tools/report.py shows what is lost without a sensor.
"""

from __future__ import annotations

import argparse
import os
import sys

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.runner import Runner

import bevfusion_plugin  # noqa: F401  allows MMEngine's checkpoints to be loaded
from bevfusion_plugin.engine.accumulation.precision import autocast_dtype
from bevfusion_plugin.launch.command_line import UsageError, add_cfg_options, add_launcher, tool, tool_parser, user_errors
from bevfusion_plugin.launch.config_file import load_config
from bevfusion_plugin.launch.flags import half_precision, set_work_dir, writable_folder
from bevfusion_plugin.launch.ranks import process_group, rank_of, set_local_rank
from bevfusion_plugin.launch.start_check import check_start, check_whole
from bevfusion_plugin.launch.test_step import SENSORS, change_test_step, check_sensor
from bevfusion_plugin.launch.trial import fit_to_sample
from bevfusion_plugin.visualization.test_scores import write_test_scores


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = tool_parser(__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--work-dir', help='where the log goes (default: work_dirs/<config name>)')
    parser.add_argument('--show-dir', help='write pictures of the first 20 samples, boxes drawn, into this folder')
    parser.add_argument(
        '--trial',
        action='store_true',
        help='a trial on a sample of the data: a metric that needs the nuScenes tables gives way to one that does not',
    )
    parser.add_argument(
        '--amp',
        nargs='?',
        const='auto',
        choices=['auto', 'float16', 'bfloat16'],
        help="test in half precision: the one the config trains in, float16 if in none, or this one",
    )
    parser.add_argument('--without', choices=SENSORS, help='test with black images, or without points: what the sensor adds')
    add_cfg_options(parser)
    add_launcher(parser)
    return parser.parse_args(argv)


def prepared(args: argparse.Namespace) -> Config:
    """The config as the flags change it, and what the test needs made sure.

    Raises:
        UsageError: If it cannot be read or the test cannot start.
    """
    cfg = load_config(args.config, args.cfg_options)
    check_whole(cfg, training=False)
    cfg.launcher = args.launcher
    set_work_dir(cfg, args.work_dir)
    if not os.path.isfile(args.checkpoint):
        raise UsageError(f'there is no checkpoint {args.checkpoint}')
    cfg.load_from = args.checkpoint
    if args.trial:
        fit_to_sample(cfg, training=False)
    check_start(cfg, training=False)
    if args.without:
        check_sensor(cfg, args.without)
    if args.show_dir:
        writable_folder('--show-dir', args.show_dir)
        cfg.custom_hooks = [*(cfg.get('custom_hooks') or []), dict(type='bevfusion_plugin.DetectionPictureHook', out_dir=args.show_dir)]
    return cfg


@tool
def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 after the test, 2 when it cannot start."""
    args = parse_args(argv)
    set_local_rank(args.local_rank)
    with user_errors():
        cfg = prepared(args)
        dtype = autocast_dtype(half_precision(cfg, args.amp), get_device()) if args.amp else None
    with process_group(cfg):
        runner = Runner.from_cfg(cfg)
        change_test_step(runner.model, args.without, dtype)
        metrics = runner.test()
    if rank_of(args.launcher) == 0:
        write_test_scores(cfg.work_dir, f'without {args.without}' if args.without else 'all sensors', args.checkpoint, metrics)
    return 0


if __name__ == '__main__':
    sys.exit(main())
