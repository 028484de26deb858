"""The training report: one HTML page with everything inside it, which opens without a network, on a phone too."""

from __future__ import annotations

import gzip
import html
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bevfusion_plugin.visualization.report.charts import Chart, evaluation_charts, thinning_note, training_charts
from bevfusion_plugin.visualization.report.pictures import PICTURE_BYTES, chosen_pictures, data_address, written_token
from bevfusion_plugin.visualization.report.run_record import Diagnosis, RunRecord
from bevfusion_plugin.visualization.report.style import CSS, SCRIPT
from bevfusion_plugin.visualization.report.tables import (
    alarm,
    beside,
    checkpoint_tests_table,
    comparison_tables,
    diagnosis_table,
    evaluation_table,
    past_divergence,
    plan_rows_table,
    summary_table,
)

# A browser that reads this fetches nothing, whatever the page says.
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
PLOTLY = Path(__file__).with_name('plotly-basic.min.js.gz')  # plotly.js 4.1.1, its bundle of lines, bars and pies; see NOTICE


def report_page(records: Sequence[RunRecord], diagnoses: Sequence[Diagnosis]) -> str:
    """The page about one training, or about several beside each other.

    Args:
        records: The trainings.
        diagnoses: What the doctor says about each.

    Raises:
        ValueError: If a picture cannot be read.
    """
    title = ', '.join(record.name for record in records)
    training, evaluation = training_charts(records), evaluation_charts(records)
    alarms = [alarm(record.name, record.divergence) for record in records if record.divergence is not None and record.diverged]
    past = [past_divergence(record.name, record.divergence) for record in records if record.divergence is not None and not record.diverged]
    body = [
        _header(records, title),
        *alarms,
        summary_table(records),
        *past,
        '<h2>Training</h2>',
        _soft(thinning_note(records)),
        _chart_cards(training, 0),
        '<h2>Validation</h2>',
        _chart_cards(evaluation, len(training)),
        checkpoint_tests_table(records),
        _evaluations(records),
        '<h2>Batch plan</h2>',
        _plans(records),
        "<h2>The doctor's findings</h2>",
        _by_run(records, map(diagnosis_table, diagnoses)),
        '<h2>Pictures of predictions</h2>',
        _by_run(records, _picture_grids(records)),
        '<h2>Environment</h2>',
        _by_run(records, map(_environment, records)),
    ]
    figures = [chart.figure for chart in training + evaluation]
    return PAGE.format(
        title=html.escape(title),
        policy=html.escape(POLICY),
        css=CSS,
        body='\n'.join(body),
        plotly=plotly_script(),
        charts=script_json(figures),
        script=SCRIPT,
    )


PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<link rel="icon" href="data:,">
<title>Training report: {title}</title>
<style>{css}</style>
</head>
<body>
<main>
{body}
</main>
<dialog id="large" aria-label="picture at its full size"></dialog>
<script>{plotly}</script>
<script type="application/json" id="charts">{charts}</script>
<script>{script}</script>
</body>
</html>
"""


def write_report(records: Sequence[RunRecord], diagnoses: Sequence[Diagnosis], out: str | Path) -> Path:
    """The path of the page about ``records``, written to ``out``: whoever reads it meanwhile has the old one or the new one.

    Raises:
        OSError: If ``out`` cannot be written.
        ValueError: If a picture cannot be read.
    """
    path = Path(out)
    page = report_page(records, diagnoses)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f'{path.name}.unfinished')
    unfinished.write_text(page, encoding='utf-8')
    os.replace(unfinished, path)
    return path


def plotly_script() -> str:
    """The JavaScript that draws the charts, 1.2 MB."""
    return gzip.decompress(PLOTLY.read_bytes()).decode()


def script_json(value: Any) -> str:
    """``value`` as JSON that cannot end the script element it stands in."""
    written = json.dumps(value, allow_nan=False, separators=(',', ':'))
    return written.replace('<', '\\u003c').replace('>', '\\u003e').replace('&', '\\u0026')


def _header(records: Sequence[RunRecord], title: str) -> str:
    def line(record: RunRecord) -> str:
        starts = f'{len(record.starts)} starts joined, ' if len(record.starts) > 1 else ''
        return f'<p class="soft">{html.escape(record.name)}: {starts}{html.escape(", ".join(record.starts))}</p>'

    return f'<h1>{html.escape(title)}</h1>\n' + '\n'.join(map(line, records))


def _chart_cards(charts: Sequence[Chart], first: int) -> str:
    if not charts:
        return '<p class="soft">Nothing was logged.</p>'
    cards = [
        f'<section class="card"><h3>{html.escape(chart.title)}</h3>{_soft(chart.reading)}<div id="chart-{number}" class="chart"></div>'
        + ''.join(f'<p>{html.escape(note)}</p>' for note in chart.notes)
        + '</section>'
        for number, chart in enumerate(charts, start=first)
    ]
    return f'<div class="charts">{"".join(cards)}</div>\n<noscript><p>The charts need JavaScript.</p></noscript>'


def _soft(sentence: str) -> str:
    return f'<p class="soft">{html.escape(sentence)}</p>' if sentence else ''


def _evaluations(records: Sequence[RunRecord]) -> str:
    """The run's validation in full; of several what compares them, each one's own folded up."""
    full = _by_run(records, map(evaluation_table, records))
    if len(records) == 1:
        return full
    return f'{comparison_tables(records)}<details><summary>Each run in full</summary>{full}</details>'


def _by_run(records: Sequence[RunRecord], parts: Any) -> str:
    """The parts below each other, each under its run's name if there are several."""
    if len(records) == 1:
        return '\n'.join(parts)
    return '\n'.join(f'<h3>{html.escape(record.name)}</h3>\n{part}' for record, part in zip(records, parts))


def _plans(records: Sequence[RunRecord]) -> str:
    if len(records) == 1:
        return plan_rows_table(records[0])
    return beside([f'<section><h3>{html.escape(record.name)}</h3>{plan_rows_table(record)}</section>' for record in records])


def _environment(record: RunRecord) -> str:
    if not record.text.environment:
        return '<p class="soft">The log does not say.</p>'
    return f'<details><summary>As logged</summary><pre>{html.escape(record.text.environment)}</pre></details>'


def _picture_grids(records: Sequence[RunRecord]) -> list[str]:
    chosen = chosen_pictures([record.pictures for record in records])
    share = PICTURE_BYTES // max(1, sum(map(len, chosen)))
    return [_picture_grid(record, pictures, share) for record, pictures in zip(records, chosen)]


def _picture_grid(record: RunRecord, pictures: Sequence[Path], max_bytes: int) -> str:
    if not pictures:
        return '<p class="soft">There are none; DetectionPictureHook draws them at a validation.</p>'
    left_out = len(record.pictures) - len(pictures)
    note = f'<p class="soft">{len(pictures)} of {len(record.pictures)} pictures.</p>' if left_out else ''
    return f'{note}<div class="pictures">{"".join(_figure(picture, max_bytes) for picture in pictures)}</div>'


def _figure(picture: Path, max_bytes: int) -> str:
    token = written_token(picture)
    name = html.escape(f'{picture.stem}, token {token}' if token else picture.stem)
    return (
        f'<figure><button class="picture" type="button"><img loading="lazy" alt="predictions of sample {name}, open large" '
        f'src="{data_address(picture, max_bytes)}"></button><figcaption>{name}</figcaption></figure>'
    )
