"""Examine a config before a training: what is known to go wrong, what is missing, and how to mend it.

Works for any MM config (mmdet, mmdet3d, mmpretrain, ...), without a GPU, data or weights; it says which are missing and goes on.
Exit status: 0 nothing found (remarks do not count), 1 errors or warnings, 2 the config cannot be read.

Examples:
    python tools/doctor.py configs/bevfusion.py
    python tools/doctor.py my_config.py --gpus 4 --fix my_config_mended.py
    python tools/doctor.py my_config.py --resume-from work_dirs/x/epoch_17.pth --dry-run 20
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from mmengine.config import Config

import bevfusion_plugin  # noqa: F401  allows MMEngine's checkpoints to be read
from bevfusion_plugin.doctor.case import Case
from bevfusion_plugin.doctor.dry_run import DryRun, dry_run, dry_run_findings
from bevfusion_plugin.doctor.examination import examine
from bevfusion_plugin.doctor.finding import Finding
from bevfusion_plugin.doctor.findings_table import findings_data, findings_table
from bevfusion_plugin.doctor.mend import change_lines, changed_case, changes_of, mend_all, mended
from bevfusion_plugin.doctor.small_step import can_step, step_fault
from bevfusion_plugin.engine.checkpoints.resuming import resumable_fault
from bevfusion_plugin.launch.command_line import UsageError, add_cfg_options, add_gpus, at_least_one, tool, tool_parser, user_errors
from bevfusion_plugin.launch.config_file import load_config
from bevfusion_plugin.launch.flags import writable_folder
from bevfusion_plugin.launch.own_ranks import planned_gpus


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = tool_parser(__doc__)
    parser.add_argument('config', help='config file')
    add_gpus(parser, "ranks of the training (default: the config's num_gpus, else the GPUs of this machine, at least 1)")
    parser.add_argument('--resume-from', metavar='FILE', help='checkpoint that the training will be resumed from')
    parser.add_argument('--dry-run', type=int, metavar='K', help="also train K iterations on the config's own data")
    parser.add_argument('--fix', metavar='OUT.py', help='write a config that builds on this one, without its errors')
    parser.add_argument('--json', action='store_true', help='print JSON instead of text')
    add_cfg_options(parser)
    return parser.parse_args(argv)


@tool
def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 nothing found, 1 errors or warnings, 2 the config cannot be read or written."""
    args = parse_args(argv)
    case = read_case(args)
    findings = examine(case)
    run, fixed = None, ''
    if args.dry_run is not None:
        run = dry_run(case.cfg, args.dry_run)
        findings += dry_run_findings(run)
    if args.fix:
        with user_errors():
            fixed = write_mended(case, args.fix)
    print(as_json(findings, run) if args.json else as_text(findings, run, fixed))
    return int(any(finding.severity != 'info' for finding in findings))


def read_case(args: argparse.Namespace) -> Case:
    """The config with the options merged in and every type by its name, and how it is to be trained.

    Raises:
        UsageError: If an argument or the config cannot be used.
    """
    at_least_one(args, '--gpus', '--dry-run')
    if args.resume_from and not Path(args.resume_from).is_file():
        raise UsageError(f'--resume-from: there is no checkpoint {args.resume_from}')
    if args.fix and Path(args.fix).suffix != '.py':
        raise UsageError(f'--fix writes Python, got {args.fix}; name a file that ends in .py')
    if args.fix and Path(args.fix).is_dir():
        raise UsageError(f'--fix writes a file, got the folder {args.fix}; name a file in it')
    if args.fix:
        with user_errors():
            writable_folder(f'--fix {args.fix}: the folder', Path(args.fix).parent)
    reason = resumable_fault(Path(args.resume_from)) if args.resume_from else None
    if reason:
        raise UsageError(f'--resume-from: {reason}; name a file that a training wrote, epoch_N.pth or iter_N.pth')
    if args.fix and Path(args.fix).resolve() == Path(args.config).resolve():
        raise UsageError(f'--fix would overwrite the config {args.fix} that it builds on; name another file')
    cfg = load_config(args.config, args.cfg_options)
    return Case(Config(cfg.to_dict(), filename=cfg.filename, format_python_code=False), args.gpus or planned_gpus(cfg), args.resume_from)


def write_mended(case: Case, out: str) -> str:
    """Write the mended config to ``out``; what was changed and which errors are left, as text."""
    path, done = Path(out), mend_all(case)
    text = mended(case.cfg, done, path.parent)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    except OSError as error:
        raise UsageError(f'--fix {out} cannot be written: {error}; name another file') from error
    new = changed_case(case, changes_of(done))
    left = list(dict.fromkeys(finding.rule for finding in examine(new, 'error')))
    tried = bool(done) and not left and can_step(new.cfg)
    fault = step_fault(new.cfg) if tried else None
    lines = [
        f'mended config: {out}' + ', a small step of it was taken' * (tried and not fault),
        *(f'  {line}' for line in change_lines(case.cfg, done)),
    ]
    if left or fault:
        lines.append(f'NOT MENDED, correct by hand: {fault or ", ".join(left)}')
    return '\n'.join(lines)


def as_text(findings: list[Finding], run: DryRun | None, fixed: str) -> str:
    """The findings, after what a dry run showed."""
    text = ''
    if run is not None:
        pairs = zip(run.learning_rates, run.losses)
        rows = [f'  {index:>4}  {rate:<12.6g}{loss:.6g}' for index, (rate, loss) in enumerate(pairs, start=1)]
        waiting = f'  waiting for data: {run.data_share:.0%} of the time'
        text += '\n'.join(['dry run', '  iter  LR          loss', *rows, waiting, '', ''])
    if fixed:
        text += f'{fixed}\n\n'
    return text + findings_table(findings)


def as_json(findings: list[Finding], run: DryRun | None) -> str:
    """The same for machines."""
    data: dict[str, Any] = findings_data(findings)
    if run is not None:
        data['dry_run'] = dict(vars(run))
    return json.dumps(data, indent=2, default=str)


if __name__ == '__main__':
    sys.exit(main())
