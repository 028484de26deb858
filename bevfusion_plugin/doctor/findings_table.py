"""Findings as text that can be read, and as data that can be processed."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from bevfusion_plugin.doctor.finding import SEVERITIES, Finding
from bevfusion_plugin.doctor.reading.config import to_plain

TITLES = dict(error='ERRORS: the training would fail or come out wrong', warning='WARNINGS', info='REMARKS')
MAX_WIDTH = 120


def count_line(findings: Sequence[Finding]) -> str:
    """How many there are of each severity: '1 error, 2 warnings, 0 remarks'."""
    counts = {severity: sum(finding.severity == severity for finding in findings) for severity in SEVERITIES}
    words = dict(error='error', warning='warning', info='remark')
    return ', '.join(f'{number} {words[severity]}{"" if number == 1 else "s"}' for severity, number in counts.items())


def findings_table(findings: Sequence[Finding], width: int | None = None) -> str:
    """The findings grouped by severity, each with its rule, message, mend and evidence; the last line counts them.

    Args:
        findings: What was found.
        width: Characters a line; None: the terminal's, 120 at most.
    """
    width = width or min(shutil.get_terminal_size((MAX_WIDTH, 24)).columns, MAX_WIDTH)
    lines = []
    for severity in SEVERITIES:
        group = [finding for finding in findings if finding.severity == severity]
        if group:
            lines += [TITLES[severity], '']
        for finding in group:
            fixable = '  [--fix]' if finding.changes else ''
            lines.append(f'  {finding.rule}{fixable}')
            for name, text in (('', finding.message), ('mend', finding.mend), ('seen', finding.evidence)):
                lines += _field(name, text, width)
            lines.append('')
    return '\n'.join([*lines, count_line(findings)])


def _field(name: str, text: str, width: int) -> list[str]:
    lead = f'    {name}: ' if name else '    '
    return textwrap.wrap(
        text,
        width,
        initial_indent=lead,
        subsequent_indent='    ' + ' ' * (len(lead) - 4 if name else 0),
        break_long_words=False,
        break_on_hyphens=False,
    ) or [lead]


def findings_data(findings: Sequence[Finding]) -> dict[str, Any]:
    """The findings and their counts as plain dicts and lists."""
    return dict(
        findings=[to_plain(asdict(finding)) for finding in findings],
        counts={severity: sum(finding.severity == severity for finding in findings) for severity in SEVERITIES},
    )
