"""The report's tables as HTML. Every text that comes from a log, a config or a folder is escaped here."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

from bevfusion_plugin.doctor.finding import Finding
from bevfusion_plugin.visualization.evaluation_scores import class_precisions, class_table, headline, mean_errors, overall_scores
from bevfusion_plugin.visualization.report.run_record import Diagnosis, RunRecord
from bevfusion_plugin.visualization.report.series import last_mean
from bevfusion_plugin.visualization.training_curves import PANELS

SUMMARY_TITLES = dict(
    name='run', iterations='iterations', updates='updates', total_batch='total batch', final_loss='final loss', mAP='mAP', NDS='NDS'
)
NOT_FINITE = 'not finite'


class Markup(str):
    """HTML that is ready: :func:`table` does not escape it."""


def text(value: Any) -> str:
    """``value`` as it stands in a cell: three digits of a number with a fraction, a dash for what is not known or not defined."""
    if value is None or value != value:
        return '–'
    if isinstance(value, float):
        return f'{value:#.3g}'.rstrip('.') if abs(value) < 1000 or math.isinf(value) else f'{value:,.0f}'
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
    body = ''.join(f'<tr>{"".join(map(_cell, row, header))}</tr>' for row in rows)
    title = f'<caption>{html.escape(caption)}</caption>' if caption else ''
    return (
        f'<div class="scroll"><table class="{html.escape(kind)}">{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _cell(value: Any, title: str) -> str:
    """A cell, which carries its column's title for pages too narrow for columns."""
    if isinstance(value, Markup):
        return value
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return f'<td data-title="{html.escape(title)}"{" class=number" if is_number else ""}>{html.escape(text(value))}</td>'


def summary_table(records: Sequence[RunRecord]) -> str:
    """A row a run: how far it went and what it reached."""
    summaries = [record.summary() for record in records]
    rows = [[_final(summary[key]) if key == 'final_loss' else summary[key] for key in SUMMARY_TITLES] for summary in summaries]
    return table(list(SUMMARY_TITLES.values()), rows, kind='summary')


def _final(loss: float | None) -> float | str | None:
    return loss if loss is None or math.isfinite(loss) else NOT_FINITE


def evaluation_table(record: RunRecord) -> str:
    """Every metric of the last validation: overall, and beside it a row a class."""
    if not record.evaluations:
        return '<p class="soft">There was no validation yet.</p>'
    last = record.evaluations[-1]
    overall = {**overall_scores(last.values), **mean_errors(last.values)}
    title = f'Validation {len(record.evaluations)}, step {last.step}'
    found = [table(['metric', 'value'], list(overall.items()), title)] if overall else []
    classes, precisions = class_table(last.values), class_precisions(last.values)
    columns = list(dict.fromkeys(column for row in classes.values() for column in row))
    if classes:
        rows = [[name, precisions.get(name), *(row.get(column) for column in columns)] for name, row in classes.items()]
        found.append(table(['class', 'mean AP', *columns], rows, 'By class', 'classes'))
    return beside(found)


def comparison_tables(records: Sequence[RunRecord]) -> str:
    """A column a run: metrics and classes of the last validations, and the terms of the loss."""
    last = [record.evaluations[-1].values if record.evaluations else {} for record in records]
    losses = [{name: last_mean(points) for name, points in record.training.items() if PANELS['loss'].search(name)} for record in records]
    parts: list[tuple[str, Sequence[Mapping[str, float | None]], str]] = [
        ('metric', [{**overall_scores(values), **mean_errors(values)} for values in last], 'The last validations'),
        ('class', list(map(class_precisions, last)), 'Average precision by class'),
        ('loss', losses, 'Losses, mean of the last 4 % of what was logged'),
    ]
    return beside([_column_a_run(title, columns, records, caption) for title, columns, caption in parts if any(columns)])


def _column_a_run(title: str, columns: Sequence[Mapping[str, float | None]], records: Sequence[RunRecord], caption: str) -> str:
    names = list(dict.fromkeys(name for column in columns for name in column))
    rows = [[name, *(column.get(name) for column in columns)] for name in names]
    return table([title, *(record.name for record in records)], rows, caption, 'by-run')


def beside(tables: Sequence[str]) -> str:
    """The tables side by side, as far as there is room."""
    return f'<div class="tables">{"".join(tables)}</div>' if tables else ''


def checkpoint_tests_table(records: Sequence[RunRecord]) -> str:
    """A row for each test of a checkpoint, with all sensors and without one; empty if there was none."""
    tests = [
        (record.name, condition, headline(test['metrics']), test['checkpoint'])
        for record in records
        for condition, test in record.tests.items()
    ]
    names = list(dict.fromkeys(name for _, _, scores, _ in tests for name in scores))
    rows = [[run, condition, *map(scores.get, names), checkpoint] for run, condition, scores, checkpoint in tests]
    return table(['run', 'test', *names, 'checkpoint'], rows, 'Tests', 'tests') if rows else ''


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
    rows = [
        [
            Markup(f'<td class="{html.escape(finding.severity)}">{html.escape(finding.severity)}</td>'),
            finding.rule,
            finding.message,
            finding.mend,
            _evidence(finding),
        ]
        for finding in diagnosis.findings
    ]
    return table(['severity', 'rule', 'what is wrong', 'mend', 'evidence'], rows, kind='findings')


def _evidence(finding: Finding) -> Markup:
    words = [
        f'<a href="{html.escape(word)}" rel="noopener noreferrer">{html.escape(word)}</a>'
        if word.startswith(('https://', 'http://'))
        else html.escape(word)
        for word in finding.evidence.split()
    ]
    return Markup(f'<td>{" ".join(words)}</td>')


def alarm(name: str, divergence: Mapping[str, Any]) -> str:
    """The box about a training that the divergence sentinel reported."""
    return f'<section class="alarm" role="alert"><h2>{_divergence_title(name, divergence)}</h2>{_divergence_details(divergence)}</section>'


def past_divergence(name: str, divergence: Mapping[str, Any]) -> str:
    """The entry about a report of the sentinel that is over: history, folded up."""
    return (
        f'<details><summary>{_divergence_title(name, divergence)}; over since update '
        f'{html.escape(text(divergence.get("over")))}</summary>{_divergence_details(divergence)}</details>'
    )


def _divergence_title(name: str, divergence: Mapping[str, Any]) -> str:
    what = 'diverged' if divergence.get('lost', True) else 'left its usual range'
    return f'{html.escape(name)} {what} at update {html.escape(text(divergence.get("update")))}'


def _divergence_details(divergence: Mapping[str, Any]) -> str:
    reasons = divergence.get('reasons') or []
    reasons = [reasons] if isinstance(reasons, str) else reasons
    listed = ''.join(f'<li>{html.escape(str(reason))}</li>' for reason in reasons)
    values = divergence.get('values')
    rows = (
        [(name, NOT_FINITE if value in ('nan', 'inf', '-inf') else value) for name, value in values.items()]
        if isinstance(values, Mapping)
        else []
    )
    seen = table(['seen', 'value'], rows) if rows else ''
    checkpoint = divergence.get('checkpoint')
    kept = f'<p>Last good checkpoint: <code>{html.escape(str(checkpoint))}</code></p>' if checkpoint else ''
    return f'<ul>{listed}</ul>{seen}{kept}'


def finite_or_none(value: Any) -> Any:
    """``value``, None for a number that JSON does not know."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
