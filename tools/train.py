"""Train a model with MMEngine's Runner.

Examples:
    python tools/train.py configs/bevfusion_4x4090.py
    python tools/train.py configs/bevfusion_4x4090_b32.py --auto-scale-lr sqrt --resume
    tools/dist_train.sh configs/bevfusion_4x4090.py 4
"""
from __future__ import annotations

import argparse
import os
import sys

from mmengine.config import Config, DictAction
from mmengine.runner import Runner

import bevfusion_plugin  # noqa: F401  allows MMEngine's checkpoints to be resumed
from bevfusion_plugin.doctor.case import Case
from bevfusion_plugin.doctor.examination import examine
from bevfusion_plugin.doctor.findings_table import findings_table
from bevfusion_plugin.engine.hooks.divergence_sentinel_hook import TrainingDiverged
from bevfusion_plugin.launch.flags import (load_config, set_amp, set_auto_scale_lr, set_resume, set_work_dir,
                                            start_cpu_ranks)
from bevfusion_plugin.doctor.missing import SAMPLE_VARIABLE, PreflightError, check_run

WORLD_SIZES = ('WORLD_SIZE', 'SLURM_NTASKS', 'OMPI_COMM_WORLD_SIZE')  # as torchrun, Slurm and Open MPI set them


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file')
    parser.add_argument('--work-dir', help='where logs and checkpoints go (default: work_dirs/<config name>)')
    parser.add_argument('--amp', action='store_true', help='train in half precision')
    parser.add_argument('--auto-scale-lr', nargs='?', const='linear', choices=['linear', 'sqrt'],
                        help='scale the learning rate to the real total batch, accumulation included')
    parser.add_argument('--resume', nargs='?', const='auto', metavar='auto|PATH',
                        help='go on from the newest checkpoint of the work dir, or from this one')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='key=value pairs that override the config')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--no-doctor', action='store_true', help='start even if tools/doctor.py finds errors in the config')
    parser.add_argument('--seed', type=int, help='seed of all random numbers')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    return parser.parse_args(argv)


def examined(cfg: Config) -> str:
    """What the doctor's quick rules find wrong with the training as it was started; '' if nothing.

    A trial on a sample (``NUSCENES_SAMPLE``) is no training whose recipe matters: it is not examined.
    """
    if os.environ.get(SAMPLE_VARIABLE):
        return ''
    ranks = 1 if cfg.launcher == 'none' else next((int(os.environ[name]) for name in WORLD_SIZES if os.environ.get(name)), 1)
    case = Case(Config(cfg.to_dict(), filename=cfg.filename, format_python_code=False), ranks,
                cfg.get('load_from') if cfg.get('resume') else None, quick=True)
    findings = examine(case, 'error')
    if not findings:
        return ''
    return (f'{findings_table(findings)}\nThis run would go wrong. `python tools/doctor.py {cfg.filename} --gpus {case.gpus} --fix OUT.py` '
            'writes a mended config; --no-doctor starts it as it is')


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 after training, 1 when it diverged and was stopped, 2 when the run cannot start."""
    args = parse_args(argv)
    os.environ.setdefault('LOCAL_RANK', os.environ.get('OMPI_COMM_WORLD_LOCAL_RANK', str(args.local_rank)))
    try:
        cfg = load_config(args.config, args.cfg_options)
        cfg.launcher = args.launcher
        set_work_dir(cfg, args.work_dir)
        set_resume(cfg, args.resume)
        if args.amp:
            set_amp(cfg)
        if args.auto_scale_lr:
            set_auto_scale_lr(cfg, args.auto_scale_lr)
        if args.seed is not None:
            cfg.randomness = dict(seed=args.seed)
        errors = '' if args.no_doctor else examined(cfg)
        if errors:
            print(errors, file=sys.stderr)
        check_run(cfg)
    except (PreflightError, FileNotFoundError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    if errors:
        return 2
    start_cpu_ranks(cfg)
    try:
        Runner.from_cfg(cfg).train()
    except TrainingDiverged as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
