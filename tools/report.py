"""Write the report of a training, or of several beside each other, as one HTML page that needs no network.

Examples:
    python tools/report.py work_dirs/bevfusion
    python tools/report.py work_dirs/recipe_a work_dirs/recipe_b --out comparison.html

It reads what MMEngine logs, so it works for trainings made without this package too.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from bevfusion_plugin.launch.command_line import tool, tool_parser, user_errors
from bevfusion_plugin.visualization.report.page import write_report
from bevfusion_plugin.visualization.report.run_record import Diagnosis, RunRecord, diagnose, read_runs
from bevfusion_plugin.visualization.report.tables import finite_or_none


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = tool_parser(__doc__)
    parser.add_argument('work_dirs', nargs='+', metavar='work_dir', help='work dir of a training')
    parser.add_argument(
        '--out', help='file to write (default: report.html in the work dir; of several work dirs, in the folder they share)'
    )
    parser.add_argument('--json', action='store_true', help='print the summary as JSON')
    return parser.parse_args(argv)


def default_out(work_dirs: list[str]) -> Path:
    """``report.html`` in the work dir, or in the folder that several share."""
    return Path(work_dirs[0] if len(work_dirs) == 1 else os.path.commonpath(map(os.path.abspath, work_dirs))) / 'report.html'


def summary(record: RunRecord, diagnosis: Diagnosis) -> dict[str, Any]:
    """What ``--json`` says about a run."""
    shown = {key: finite_or_none(value) for key, value in record.summary().items()}
    findings = [dict(rule=each.rule, severity=each.severity, message=each.message, mend=each.mend) for each in diagnosis.findings]
    return dict(shown, diverged=record.diverged, findings=findings, doctor_problem=diagnosis.problem)


@tool
def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 when the page is written; 1 if it is, and a run diverged and has not recovered, or its config has a
    finding at error level; 2 if it cannot be written.
    """
    args = parse_args(argv)
    with user_errors():
        records = read_runs(args.work_dirs)
        diagnoses = [diagnose(record) for record in records]
        out = write_report(records, diagnoses, args.out or default_out(args.work_dirs))
    summaries = [summary(record, diagnosis) for record, diagnosis in zip(records, diagnoses)]
    if args.json:
        print(json.dumps(dict(report=str(out), runs=summaries), indent=2, allow_nan=False))
    else:
        print(out)
    bad = any(each['diverged'] or any(finding['severity'] == 'error' for finding in each['findings']) for each in summaries)
    return 1 if bad else 0


if __name__ == '__main__':
    sys.exit(main())
