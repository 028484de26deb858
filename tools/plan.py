"""Which batch plans a machine can take: updates, learning rate, warm-up, memory, and why a plan is bad.

Examples:
    python tools/plan.py --gpus 4 --batch-size 3 --base-batch-size 32
    python tools/plan.py configs/bevfusion.py
    python tools/plan.py configs/bevfusion.py --gpus 4 --gpu-memory 24 --batch-size 4
    python tools/plan.py configs/bevfusion_4x4090.py --gpu-memory 24 --precision float32 --with-cp

Flags override the config. Without one they are compared with the reference's training of BEVFusion (lidar + camera): LR 2e-4, 6
epochs of 123,580 samples (class-balanced nuScenes), a warm-up over 500 of its 23,172 updates. --gpu-memory computes what a GPU
needs from one small forward pass on the CPU; bevfusion_plugin/plan/memory_model.py says what that does not know. What benchmarks/gpu.py
has measured of the same model (docs/gpu.json) goes before it.

Exit status: 0, 1 if the plan asked for is bad or cannot be met, 2 if the question cannot be understood.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from mmengine.config import Config

from bevfusion_plugin.doctor.memory.measured import Rows, known_rows
from bevfusion_plugin.doctor.reading.config import precision_of
from bevfusion_plugin.doctor.reading.plan_settings import REFERENCE, settings_of, training_from
from bevfusion_plugin.engine.accumulation.precision import DTYPES
from bevfusion_plugin.launch.command_line import UsageError, add_cfg_options, add_gpus, at_least_one, tool, tool_parser, user_errors
from bevfusion_plugin.launch.config_file import load_config
from bevfusion_plugin.launch.own_ranks import planned_gpus
from bevfusion_plugin.plan.batch_plan import RULES
from bevfusion_plugin.plan.memory_model import GIB
from bevfusion_plugin.plan.search import PlanSearch, choose, search_plans
from bevfusion_plugin.plan.search_text import search_text

SETTING_OF_FLAG = dict(
    gpus='world_size',
    batch_size='samples_per_rank',
    accumulate='accumulative_counts',
    total_batch_size='total_batch_size',
    base_batch_size='base_batch_size',
    lr='lr',
    samples='samples',
    epochs='epochs',
    rule='rule',
)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = tool_parser(__doc__)
    parser.add_argument('config', nargs='?', help='config file; without it the flags alone must tell')
    add_gpus(parser, "number of GPUs, W (default: the config's num_gpus, else those of this machine, at least 1)")
    parser.add_argument('--batch-size', type=int, help='samples a GPU a micro-batch, b')
    parser.add_argument('--accumulate', type=int, help='micro-batches an update, A')
    parser.add_argument('--total-batch-size', type=int, help='samples an update to reach (default: the base batch size)')
    parser.add_argument('--base-batch-size', type=int, help='total batch size that the LR was tuned for')
    parser.add_argument(
        '--rule', choices=list(RULES), help='how the LR follows the total batch size (default: as the config does, without one linear)'
    )
    parser.add_argument('--lr', type=float, help='LR that was tuned for the base batch size (default without a config: 2e-4)')
    parser.add_argument('--samples', type=int, help='samples an epoch (default: 123580 for class-balanced nuScenes)')
    parser.add_argument('--epochs', type=int, help='epochs (default without a config: 6)')
    parser.add_argument('--gpu-memory', type=float, metavar='GIB', help='GiB of a GPU; computes what each plan needs')
    parser.add_argument('--precision', choices=list(DTYPES), help="for --gpu-memory and --probe (default: the config's)")
    parser.add_argument('--with-cp', action='store_true', help='as if model.with_cp were True: activation checkpointing')
    parser.add_argument(
        '--measured',
        type=Path,
        metavar='JSON',
        help='for --gpu-memory: what benchmarks/gpu.py wrote on a GPU (default: docs/gpu.json, where it is)',
    )
    parser.add_argument('--probe', action='store_true', help="measure on this machine's GPU instead of computing")
    add_cfg_options(parser)
    parser.add_argument('--json', action='store_true', help='print JSON')
    return parser.parse_args(argv)


def read_settings(args: argparse.Namespace, cfg: Config | None) -> dict[str, Any]:
    """What config and flags say, the flags first: a total batch size replaces the config's A, or its b if A is a flag, and A alone
    the config's total batch size."""
    flags = {name: getattr(args, flag) for flag, name in SETTING_OF_FLAG.items() if getattr(args, flag) is not None}
    settings = dict(REFERENCE) if cfg is None else dict(world_size=planned_gpus(cfg)) | settings_of(cfg)
    if 'total_batch_size' in flags:
        settings.pop('samples_per_rank' if 'accumulative_counts' in flags else 'accumulative_counts', None)
    elif 'accumulative_counts' in flags:
        settings.pop('total_batch_size', None)
    return settings | flags


def memory_function(args: argparse.Namespace, cfg: Config | None, ranks: int) -> Rows | None:
    """Function that tells for b samples what a GPU's memory goes to, None if nobody asked; sets the memory of a probed GPU.

    Raises:
        UsageError: If there is no config, or flags do not go together.
    """
    if args.gpu_memory is None and not args.probe:
        if args.precision or args.with_cp or args.measured:
            raise UsageError('--precision, --with-cp and --measured change the memory alone; add --gpu-memory 24 or --probe')
        return None
    if cfg is None:
        raise UsageError("--gpu-memory and --probe need a config's model, got no config; write plan.py CONFIG --gpu-memory 24")
    if args.gpu_memory is not None and not args.gpu_memory > 0:
        raise UsageError(f'--gpu-memory must be positive, got {args.gpu_memory}; it is the GiB of a GPU')
    from bevfusion_plugin.doctor.memory.bevfusion_memory import gpu_gib, memory_rows  # its model needs mmdet3d

    args.gpu_memory = args.gpu_memory or gpu_gib()
    dtype = DTYPES[args.precision or precision_of(cfg)]
    rows_of = memory_rows(cfg, ranks, dtype, args.with_cp, args.probe)
    if args.probe:
        return rows_of
    return known_rows(rows_of, cfg, dtype, args.with_cp or cfg.model.get('with_cp') is True, args.gpu_memory, args.measured)


def answer(args: argparse.Namespace) -> tuple[PlanSearch, Mapping[str, float]]:
    """The search that the command line asks for, and the bytes of the chosen plan by what needs them.

    Raises:
        ValueError: If the question cannot be understood.
    """
    at_least_one(args, '--gpus', '--batch-size', '--accumulate', '--total-batch-size', '--base-batch-size', '--samples', '--epochs')
    cfg = load_config(args.config, args.cfg_options) if args.config else None
    settings = read_settings(args, cfg)
    training = training_from(settings)
    asked = {name: settings.get(name) for name in ('samples_per_rank', 'accumulative_counts', 'total_batch_size')}
    choose(training.world_size, training.base_batch_size, **asked)  # a wrong question is told before the model is built
    rows_of = memory_function(args, cfg, training.world_size)
    if rows_of is None:
        return search_plans(training, **asked), {}
    search = search_plans(training, **asked, memory_of=lambda b: sum(rows_of(b).values()) / GIB, gpu_memory=args.gpu_memory)
    return search, rows_of(search.chosen.plan.samples_per_rank) if search.chosen else {}


@tool
def main(argv: list[str] | None = None) -> int:
    """Exit status: 0, 1 if the plan asked for is bad or out of reach, 2 if the question is not understood."""
    args = parse_args(argv)
    with user_errors():
        search, memory = answer(args)
    if args.json:
        print(json.dumps(search.as_dict() | dict(memory_bytes=memory if isfinite(sum(memory.values())) else None), indent=2))
    else:
        print(search_text(search, memory))
    return int(bool(search.findings))


if __name__ == '__main__':
    sys.exit(main())
