"""Train a model with MMEngine's Runner.

On every GPU of this machine, up to the config's num_gpus; on a CPU in one process. --gpus N says otherwise.

Examples:
    python tools/train.py configs/bevfusion_lidar.py --samples-per-gpu auto
    python tools/train.py configs/bevfusion.py --samples-per-gpu auto --resume
    tools/dist_train.sh configs/bevfusion.py 4
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from contextlib import nullcontext

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.runner import Runner

import bevfusion_plugin  # noqa: F401  allows MMEngine's checkpoints to be resumed
from bevfusion_plugin.engine.checkpoints.whole_file import CheckpointNotWritten
from bevfusion_plugin.engine.checkpoints.work_dir_lock import held_work_dir
from bevfusion_plugin.engine.hooks.divergence_sentinel_hook import TrainingDiverged
from bevfusion_plugin.folder_lock import FolderInUse
from bevfusion_plugin.launch.command_line import add_cfg_options, add_gpus, add_launcher, at_least_one, tool, tool_parser, user_errors
from bevfusion_plugin.launch.config_file import load_config
from bevfusion_plugin.launch.flags import (
    set_amp,
    set_auto_scale_lr,
    set_compile,
    set_deterministic,
    set_resume,
    set_save_every,
    set_seed,
    set_work_dir,
)
from bevfusion_plugin.launch.out_of_memory import STATUS, smaller_micro_batch, with_options
from bevfusion_plugin.launch.own_ranks import batch_remark, own_ranks, start_ranks
from bevfusion_plugin.launch.ranks import number_of_ranks, process_group, rank_of, set_local_rank
from bevfusion_plugin.launch.samples_per_gpu import set_samples_per_gpu
from bevfusion_plugin.launch.start_check import check_start, check_whole
from bevfusion_plugin.launch.trial import fit_to_sample


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = tool_parser(__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('--work-dir', help='where logs and checkpoints go (default: work_dirs/<config name>)')
    parser.add_argument(
        '--amp',
        nargs='?',
        const='auto',
        choices=['auto', 'float16', 'bfloat16'],
        help="train in half precision: the config's, float16 if it has none, or this one",
    )
    parser.add_argument(
        '--compile',
        action='store_true',
        help='torch.compile of image backbone and neck, fuser, BEV backbone and neck, head; the first steps take minutes',
    )
    parser.add_argument(
        '--auto-scale-lr',
        nargs='?',
        const='linear',
        choices=['linear', 'sqrt'],
        help='scale the learning rate to the real total batch, accumulation included',
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='auto|PATH',
        help='go on from the newest whole checkpoint of the work dir, or from this one',
    )
    parser.add_argument('--save-every', type=float, metavar='MINUTES', help='write a checkpoint that often, inside epochs too')
    parser.add_argument(
        '--retry-oom',
        action='store_true',
        help='out of GPU memory, start again with smaller micro-batches, more of them '
        'accumulated, from the newest checkpoint; BatchNorm then sees fewer samples at once',
    )
    parser.add_argument('--no-doctor', action='store_true', help='start even if tools/doctor.py finds errors in the config')
    parser.add_argument(
        '--trial',
        action='store_true',
        help='a trial on a sample of the data: the recipe is not examined, missing '
        'weights are left out, and a metric that needs the nuScenes tables gives way to one that does not',
    )
    parser.add_argument('--seed', type=int, help='seed of all random numbers')
    parser.add_argument(
        '--deterministic',
        action='store_true',
        help='the same weights every time, bit for bit, from seed 0 without --seed; '
        'slower on a GPU, and an operation that has no deterministic form there is an error',
    )
    parser.add_argument(
        '--samples-per-gpu',
        metavar='auto|N',
        help='samples a GPU at once, the total batch kept by accumulation; auto: as many as the memory model says fit into the GPU',
    )
    add_gpus(parser, "processes, one a GPU (default: every GPU that torch sees, up to the config's num_gpus; on a CPU one)")
    add_cfg_options(parser)
    add_launcher(parser)
    return parser.parse_args(argv)


def prepared(args: argparse.Namespace) -> Config:
    """The config as the flags change it, examined.

    Raises:
        UsageError: If it cannot be read or the run cannot start.
    """
    at_least_one(args, '--gpus')
    cfg = load_config(args.config, args.cfg_options)
    check_whole(cfg)
    cfg.launcher = args.launcher
    ranks = own_ranks(cfg, args.launcher, args.gpus)
    if args.amp:
        set_amp(cfg, args.amp)
    if args.samples_per_gpu and 'train_dataloader.batch_size' not in (args.cfg_options or {}):  # which --retry-oom sets
        set_samples_per_gpu(cfg, args.samples_per_gpu, max(ranks, number_of_ranks(args.launcher)))
    remark = batch_remark(cfg, ranks) if args.launcher == 'none' else None
    if remark:
        print_log(remark, 'current', logging.WARNING)
    if ranks > 1:
        cfg.launcher = 'pytorch'  # as which they will be started
    set_work_dir(cfg, args.work_dir)
    set_resume(cfg, args.resume)
    if args.save_every is not None:
        set_save_every(cfg, args.save_every)
    if args.compile:
        set_compile(cfg)
    if args.auto_scale_lr:
        set_auto_scale_lr(cfg, args.auto_scale_lr)
    if args.seed is not None:
        set_seed(cfg, args.seed)
    if args.deterministic:
        set_deterministic(cfg)
    if args.trial:
        fit_to_sample(cfg, training=True)
    check_start(cfg, needs_only=args.no_doctor or args.trial, ranks=ranks if ranks > 1 else None)
    return cfg


@tool
def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 after training or SIGTERM, 130 after Ctrl-C, 1 when it diverged or a checkpoint could not be written, 2 when
    the run cannot start, 75 when it does not fit into the GPU's memory.
    """
    args = parse_args(argv)
    set_local_rank(args.local_rank)
    with user_errors():
        cfg = prepared(args)
    ranks, arguments = own_ranks(cfg, args.launcher, args.gpus), list(sys.argv[1:] if argv is None else argv)
    smaller = smaller_micro_batch(cfg) if args.retry_oom else None
    found = ['--samples-per-gpu', str(cfg.train_dataloader.batch_size)] if args.samples_per_gpu else []  # one for all ranks
    status = start_ranks([sys.executable, __file__, *arguments, *found, '--launcher', 'pytorch'], ranks) if ranks > 1 else run(cfg)
    if status == STATUS and smaller and args.launcher == 'none':
        print(f'out of GPU memory: starting again with {smaller}, which keeps the total batch', file=sys.stderr, flush=True)
        os.execv(sys.executable, [sys.executable, __file__, *with_options(arguments, smaller)])  # nothing of the failed run stays
    return status


def run(cfg: Config) -> int:
    """Train in this process; the exit status."""
    try:
        with held_work_dir(cfg.work_dir) if rank_of(cfg.launcher) == 0 else nullcontext(), process_group(cfg):
            Runner.from_cfg(cfg).train()
    except FolderInUse as error:
        print(error, file=sys.stderr)
        return 2
    except (TrainingDiverged, CheckpointNotWritten) as error:
        print(error, file=sys.stderr)
        return 1
    except torch.cuda.OutOfMemoryError as error:
        smaller = smaller_micro_batch(cfg)
        keep = ' '.join(f'{key}={value}' for key, value in (smaller or {}).items())
        mend = f'smaller micro-batches with the same total batch: --cfg-options {keep} (--retry-oom does that by itself)'
        print(f'{error}\n{mend if smaller else "a micro-batch of one sample does not fit"}', file=sys.stderr)
        return STATUS
    return 0


if __name__ == '__main__':
    sys.exit(main())
