"""The report's tables as HTML. Every text that comes from a log, a config or a folder is escaped here."""
from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

from bevfusion_plugin.doctor.finding import Finding
from bevfusion_plugin.visualization.evaluation_scores import class_precisions, class_table, headline, mean_errors, overall_scores
from bevfusion_plugin.visualization.report.run_record import Diagnosis, RunRecord

SUMMARY_TITLES = dict(name='run', iterations='iterations', updates='updates', total_batch='total batch', final_loss='final loss',
                      mAP='mAP', NDS='NDS')


class Markup(str):
    """HTML that is ready: :func:`table` does not escape it."""


def text(value: Any) -> str:
    """``value`` as it stands in a cell: numbers in full to six digits, a dash for what is not known."""
    if value is None:
        return '–'
    if isinstance(value, float):
        return f'{value:.6g}'
    return f'{value:,}' if isinstance(value, int) and not isinstance(value, bool) else str(value)


def table(header: Sequence[str], rows: Sequence[Sequence[Any]], caption: str = '', kind: str = '') -> str:
    """A table that scrolls sideways where the page is narrow.

    Args:
        header: Titles of the columns.
        rows: Cells, escaped unless they are :class:`Markup`; numbers go to the right.
        caption: Text above it.
        kind: CSS class.
    """
    head = ''.join(f'<th scope="col">{html.escape(title)}</th>' for title in header)
    body = ''.join(f'<tr>{"".join(map(_cell, row))}</tr>' for row in rows)
    title = f'<caption>{html.escape(caption)}</caption>' if caption else ''
    return (f'<div class="scroll"><table class="{html.escape(kind)}">{title}<thead><tr>{head}</tr></thead>'
            f'<tbody>{body}</tbody></table></div>')


def _cell(value: Any) -> str:
    if isinstance(value, Markup):
        return value
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return f'<td{" class=number" if is_number else ""}>{html.escape(text(value))}</td>'


def summary_table(records: Sequence[RunRecord]) -> str:
    """A row a run: how far it went and what it reached."""
    summaries = [record.summary() for record in records]
    rows = [[summary[key] for key in SUMMARY_TITLES] for summary in summaries]
    return table(list(SUMMARY_TITLES.values()), rows, kind='summary')


def evaluation_table(record: RunRecord) -> str:
    """Every metric of the last validation: overall, then a row a class."""
    tests = tests_table(record)
    if not record.evaluations:
        return tests or '<p class="soft">There was no validation yet.</p>'
    last = record.evaluations[-1]
    overall = {**overall_scores(last.values), **mean_errors(last.values)}
    title = f'Validation {len(record.evaluations)}, step {last.step}'
    found = tests + (table(['metric', 'value'], list(overall.items()), title) if overall else '')
    classes, precisions = class_table(last.values), class_precisions(last.values)
    columns = list(dict.fromkeys(column for row in classes.values() for column in row))
    if not classes:
        return found
    rows = [[name, precisions.get(name), *(row.get(column) for column in columns)] for name, row in classes.items()]
    return found + table(['class', 'mean AP', *columns], rows, 'By class', 'classes')


def tests_table(record: RunRecord) -> str:
    """A row for each test of a checkpoint, with all sensors and without one; empty if there was none."""
    scores = {condition: headline(test['metrics']) for condition, test in record.tests.items()}
    names = list(dict.fromkeys(name for found in scores.values() for name in found))
    rows = [[condition, *map(found.get, names), record.tests[condition]['checkpoint']] for condition, found in scores.items()]
    return table(['test', *names, 'checkpoint'], rows, 'Tests', 'tests') if rows else ''


def plan_rows_table(record: RunRecord) -> str:
    """The batch plan, and where it is from."""
    if not record.plan_rows:
        why = record.config_problem or 'its config names no batch size, or one that makes no sense'
        return f'<p class="soft">Not known: {html.escape(why)}.</p>'
    source = 'as the run logged it' if record.text.plan_rows else 'from its config; the run logged none'
    return table(['batch plan', ''], record.plan_rows, source, 'plan')


def diagnosis_table(diagnosis: Diagnosis) -> str:
    """What the doctor found, the worst first."""
    if diagnosis.problem:
        return f'<p class="warning">{html.escape(diagnosis.problem)}</p>'
    if not diagnosis.findings:
        return '<p>The doctor finds nothing wrong with the config.</p>'
    rows = [[Markup(f'<td class="{html.escape(finding.severity)}">{html.escape(finding.severity)}</td>'), finding.rule,
             finding.message, finding.mend, _evidence(finding)] for finding in diagnosis.findings]
    return table(['severity', 'rule', 'what is wrong', 'mend', 'evidence'], rows, kind='findings')


def _evidence(finding: Finding) -> Markup:
    words = [f'<a href="{html.escape(word)}" rel="noopener noreferrer">{html.escape(word)}</a>'
             if word.startswith(('https://', 'http://')) else html.escape(word) for word in finding.evidence.split()]
    return Markup(f'<td>{" ".join(words)}</td>')


def alarm(name: str, divergence: Mapping[str, Any]) -> str:
    """The box about a training that the divergence sentinel reported."""
    return (f'<section class="alarm" role="alert"><h2>{_divergence_title(name, divergence)}</h2>'
            f'{_divergence_details(divergence)}</section>')


def past_divergence(name: str, divergence: Mapping[str, Any]) -> str:
    """The entry about a report of the sentinel that is over: history, folded up."""
    return (f'<details><summary>{_divergence_title(name, divergence)}; over since update '
            f'{html.escape(text(divergence.get("over")))}</summary>{_divergence_details(divergence)}</details>')


def _divergence_title(name: str, divergence: Mapping[str, Any]) -> str:
    what = 'diverged' if divergence.get('lost', True) else 'left its usual range'
    return f'{html.escape(name)} {what} at update {html.escape(text(divergence.get("update")))}'


def _divergence_details(divergence: Mapping[str, Any]) -> str:
    reasons = divergence.get('reasons') or []
    reasons = [reasons] if isinstance(reasons, str) else reasons
    listed = ''.join(f'<li>{html.escape(str(reason))}</li>' for reason in reasons)
    values = divergence.get('values')
    seen = table(['seen', 'value'], list(values.items())) if isinstance(values, Mapping) and values else ''
    checkpoint = divergence.get('checkpoint')
    kept = f'<p>Last good checkpoint: <code>{html.escape(str(checkpoint))}</code></p>' if checkpoint else ''
    return f'<ul>{listed}</ul>{seen}{kept}'


def finite_or_none(value: Any) -> Any:
    """``value``, None for a number that JSON does not know."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
