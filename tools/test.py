"""Evaluate a checkpoint.

Example:
    python tools/test.py configs/bevfusion_4x4090.py work_dirs/bevfusion_4x4090/epoch_6.pth
"""
from __future__ import annotations

import argparse
import os
import sys

from mmengine.config import DictAction
from mmengine.runner import Runner

import bevfusion_plugin  # noqa: F401  allows MMEngine's checkpoints to be loaded
from bevfusion_plugin.launch.flags import load_config, set_work_dir, start_cpu_ranks
from bevfusion_plugin.doctor.missing import PreflightError, check_run


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--work-dir', help='where the log goes (default: work_dirs/<config name>)')
    parser.add_argument('--show-dir', help='write pictures of the first 20 samples, boxes drawn, into this folder')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='key=value pairs that override the config')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 after the test, 2 when it cannot start."""
    args = parse_args(argv)
    os.environ.setdefault('LOCAL_RANK', os.environ.get('OMPI_COMM_WORLD_LOCAL_RANK', str(args.local_rank)))
    try:
        cfg = load_config(args.config, args.cfg_options)
        cfg.launcher = args.launcher
        set_work_dir(cfg, args.work_dir)
        if not os.path.isfile(args.checkpoint):
            raise FileNotFoundError(f'there is no checkpoint {args.checkpoint}')
        cfg.load_from = args.checkpoint
        check_run(cfg, training=False)
    except (PreflightError, FileNotFoundError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    if args.show_dir:
        cfg.custom_hooks = [*cfg.get('custom_hooks', []),
                            dict(type='bevfusion_plugin.DetectionPictureHook', out_dir=args.show_dir)]
    start_cpu_ranks(cfg)
    Runner.from_cfg(cfg).test()
    return 0


if __name__ == '__main__':
    sys.exit(main())
