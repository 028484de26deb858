"""Examine a config before a training: what is known to go wrong, what is missing, and how to mend it.

Works for any MM config (mmdet, mmdet3d, mmpretrain, ...), without a GPU, data or weights; it says which are missing and goes on.
Exit status: 0 nothing found (remarks do not count), 1 errors or warnings, 2 the config cannot be read.

Examples:
    python tools/doctor.py configs/bevfusion_4x4090.py
    python tools/doctor.py my_config.py --gpus 4 --fix my_config_mended.py
    python tools/doctor.py my_config.py --resume-from work_dirs/x/epoch_17.pth --dry-run 20
"""
from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from mmengine.config import Config, DictAction

import bevfusion_plugin  # noqa: F401  allows MMEngine's checkpoints to be read
from bevfusion_plugin.doctor.case import Case
from bevfusion_plugin.doctor.dry_run import DryRun, dry_run, judge
from bevfusion_plugin.doctor.examination import examine
from bevfusion_plugin.doctor.finding import Finding
from bevfusion_plugin.doctor.findings_table import findings_data, findings_table
from bevfusion_plugin.doctor.mend import mend_all, mended
from bevfusion_plugin.launch.flags import load_config


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file')
    parser.add_argument('--gpus', type=int, help="ranks of the training (default: the config's num_gpus, else 1)")
    parser.add_argument('--resume-from', metavar='FILE', help='checkpoint that the training will be resumed from')
    parser.add_argument('--dry-run', type=int, metavar='K', help="also train K iterations on the config's own data")
    parser.add_argument('--fix', metavar='OUT.py', help='write a config that builds on this one, without its errors')
    parser.add_argument('--json', action='store_true', help='print JSON instead of text')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='key=value pairs that override the config')
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 nothing found, 1 errors or warnings, 2 the config cannot be read or written."""
    args = parse_args(argv)
    try:
        case = Case(read_config(args), args.gpus, args.resume_from)
        findings = examine(case)
        run = dry_run(case.cfg, args.dry_run) if args.dry_run is not None else None
        if args.dry_run is not None:
            findings += judge(run)
        if args.fix:
            write_mended(case, args.fix)
    except UsageError as error:
        print(error, file=sys.stderr)
        return 2
    print(as_json(findings, run) if args.json else as_text(findings, run, args.fix))
    return int(any(finding.severity != 'info' for finding in findings))


class UsageError(ValueError):
    """What a user has to correct on the command line."""


def read_config(args: argparse.Namespace) -> Config:
    """The config with the options merged in and every type by its name.

    Raises:
        UsageError: If an argument or the config cannot be used.
    """
    for name, value in (('--gpus', args.gpus), ('--dry-run', args.dry_run)):
        if value is not None and value < 1:
            raise UsageError(f'{name} must be >= 1, got {value}')
    if args.resume_from and not Path(args.resume_from).is_file():
        raise UsageError(f'--resume-from: there is no checkpoint {args.resume_from}')
    if args.fix and Path(args.fix).resolve() == Path(args.config).resolve():
        raise UsageError(f'--fix would overwrite the config {args.fix} that it builds on; name another file')
    try:
        cfg = load_config(args.config, args.cfg_options)
    except Exception as error:  # a config is Python and can fail with anything
        raise UsageError(f'{args.config} cannot be read: {type(error).__name__}: {error}') from error
    return Config(cfg.to_dict(), filename=cfg.filename, format_python_code=False)


def write_mended(case: Case, out: str) -> None:
    """Write the mended config to ``out``."""
    path = Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(mended(case.cfg, mend_all(case), path.parent))


def as_text(findings: list[Finding], run: DryRun | None, fixed: str | None) -> str:
    """The findings, after what a dry run showed."""
    text = ''
    if run is not None:
        pairs = zip(run.learning_rates, run.losses)
        rows = [f'  {index:>4}  {rate:<12.6g}{loss:.6g}' for index, (rate, loss) in enumerate(pairs, start=1)]
        waiting = f'  waiting for data: {run.data_share:.0%} of the time'
        text += '\n'.join(['dry run', '  iter  LR          loss', *rows, waiting, '', ''])
    if fixed:
        text += f'mended config: {fixed}\n\n'
    return text + findings_table(findings)


def as_json(findings: list[Finding], run: DryRun | None) -> str:
    """The same for machines."""
    data: dict[str, Any] = findings_data(findings)
    if run is not None:
        data['dry_run'] = dict(vars(run))
    return json.dumps(data, indent=2, default=str)


if __name__ == '__main__':
    sys.exit(main())
