"""Look at every sample of the data before a run: files, calibrations, boxes, categories. Nothing is trained and nothing changed.

It prints one line for each bad sample, with file, reason and mend. Exit status: 0 all are in order, 1 some are not, 2 the config or
a flag cannot be used.

Examples:
    python tools/check_data.py configs/bevfusion_4x4090.py
    python tools/check_data.py my_config.py --split train --limit 1000 --cfg-options data_root=/data/nuscenes
"""

from __future__ import annotations

import argparse
import logging
import sys

from mmengine.logging import MMLogger
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import bevfusion_plugin  # noqa: F401  brings mmcv's operators, before mmdet3d is imported
from bevfusion_plugin.doctor.data_check import DataCheck, data_sets
from bevfusion_plugin.doctor.reading.pipelines import SPLITS
from bevfusion_plugin.launch.command_line import UsageError, add_cfg_options, at_least_one, tool, tool_parser, user_errors
from bevfusion_plugin.launch.config_file import load_config


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = tool_parser(__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('--split', choices=SPLITS, help='whose data loader (default: all that the config has)')
    parser.add_argument('--limit', type=int, metavar='N', help='look at the first N samples of each data set')
    add_cfg_options(parser)
    return parser.parse_args(argv)


@tool
def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 all samples are in order, 1 some are not, 2 the data cannot be looked at."""
    args = parse_args(argv)
    at_least_one(args, '--limit')
    with user_errors():
        cfg = load_config(args.config, args.cfg_options)
        MMLogger.get_instance('check_data', log_level=logging.ERROR)
        checks = [DataCheck(dataset, cfg.get('default_scope'), args.limit) for dataset in data_sets(cfg, args.split)]
    if not checks:
        raise UsageError(f'{args.config} has no data set in {args.split or "any"}_dataloader')
    return int(any([bad_samples(check) for check in checks]))  # noqa: C419  all of them are looked at


def bad_samples(check: DataCheck) -> int:
    """Print what is wrong with a data set; how many things it was."""
    columns = TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    found = 0
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(check.ann_file, total=len(check))
        for reason in check.faults(progress=lambda samples: progress.advance(task, samples)):
            found += 1
            print(reason, flush=True)
    print(f'{check.ann_file}: {len(check):,} samples looked at, {found or "none"} bad')
    return found


if __name__ == '__main__':
    sys.exit(main())
