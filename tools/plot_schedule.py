"""Draw the learning rate and beta1 of every update, by stepping the schedulers that a training would step.

Examples:
    python tools/plot_schedule.py configs/bevfusion.py
    python tools/plot_schedule.py configs/bevfusion.py configs/bevfusion_8xb4.py --out schedule.svg
    python tools/plot_schedule.py my_config.py --gpus 2 --samples 28130 --json --cfg-options optim_wrapper.accumulative_counts=4
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from bevfusion_plugin.doctor.case import Case
from bevfusion_plugin.launch.command_line import UsageError, add_cfg_options, add_gpus, at_least_one, tool, tool_parser, user_errors
from bevfusion_plugin.launch.config_file import load_config
from bevfusion_plugin.launch.own_ranks import planned_gpus
from bevfusion_plugin.visualization.schedule_plot import Schedule, paste_end, picture_paths, save_schedules


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = tool_parser(__doc__)
    parser.add_argument('configs', nargs='+', metavar='CONFIG', help='config files; several are drawn over each other')
    parser.add_argument('--out', help='picture to write, .png or .svg, without a suffix both (default: schedule.png, with --json none)')
    add_gpus(parser, "number of GPUs (default: the config's num_gpus, else those of this machine, at least 1)")
    parser.add_argument(
        '--samples',
        type=int,
        help='samples of an epoch, after class-balanced sampling (default: read from the data, 123,580 for class-balanced nuScenes)',
    )
    parser.add_argument('--json', action='store_true', help='print the numbers as JSON')
    add_cfg_options(parser, 'every config')
    return parser.parse_args(argv)


@tool
def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 after drawing, 2 if a config cannot be read or its schedule cannot be built."""
    args = parse_args(argv)
    at_least_one(args, '--gpus', '--samples')
    out = args.out or (None if args.json else 'schedule.png')
    with user_errors():
        picture_paths(out or 'schedule.png')
        schedules = [read_schedule(path, args) for path in args.configs]
        written = save_schedules(schedules, out) if out else []
    if args.json:
        print(json.dumps([summary(schedule) for schedule in schedules], indent=2))
        return 0
    for schedule in schedules:
        print(as_line(summary(schedule)))
    print(f'written: {", ".join(map(str, written))}')
    return 0


def read_schedule(path: str, args: argparse.Namespace) -> Schedule:
    """The curves of one config.

    Raises:
        UsageError: If it cannot be read, does not train, or its schedule cannot be built.
    """
    cfg = load_config(path, args.cfg_options)
    case = Case(cfg, args.gpus or planned_gpus(cfg))
    if args.samples:
        case.samples = args.samples
    try:
        trace = case.trace
    except ValueError as error:
        raise UsageError(f'{path}: {error}') from error
    if trace is None:
        raise UsageError(f'{path}: nothing to draw; it needs train_cfg and an optim_wrapper with one optimizer')
    return Schedule(Path(path).stem, trace, paste_end(cfg, trace), assumed=case.batches_per_epoch is None)


def summary(schedule: Schedule) -> dict:
    """The numbers of one config."""
    return dict(config=schedule.name, **schedule.trace.summary(), paste_end=schedule.paste_end, epoch_length_is_assumed=schedule.assumed)


def as_line(numbers: dict) -> str:
    """One line a reader can compare with another config's."""
    momentum = ''
    if numbers['momentum_name']:
        momentum = f'; {numbers["momentum_name"]} {numbers["min_momentum"]:.4g} to {numbers["max_momentum"]:.4g}'
    length = f'{numbers["updates"]:,} updates in {numbers["epochs"]:g} epochs'
    peak = f'{numbers["peak_lr"]:.3g} (update {numbers["peak_update"]:,})'
    return f'{numbers["config"]}: {length}; LR {numbers["first_lr"]:.3g} -> {peak} -> {numbers["end_lr"]:.3g}{momentum}'


if __name__ == '__main__':
    sys.exit(main())
