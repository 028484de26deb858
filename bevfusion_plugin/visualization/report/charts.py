"""The report's charts as plotly figures (plain dicts), drawn from one run or from several laid over each other.

Colours of text and grid are left to the page, which knows whether it is read in the light or in the dark.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bevfusion_plugin.visualization.evaluation_scores import BOOKKEEPING, class_precisions, mean_errors, overall_scores
from bevfusion_plugin.visualization.report.run_record import RunRecord
from bevfusion_plugin.visualization.report.series import (
    Points,
    coordinates,
    gaps_in_words,
    points_a_series,
    smoothed,
    smoothing_window,
    spans_decades,
    thinned,
)
from bevfusion_plugin.visualization.training_curves import MAX_MARKED, PANELS

# Each at least 3:1 against white and against the dark background (WCAG 2.1, 1.4.11).
PALETTE = ('#2f7ed8', '#d9480f', '#2b8a3e', '#ae3ec9', '#b8860b', '#0c8599', '#e03131', '#6f7d8c', '#9c6644', '#7048e8')
DASHES = ('solid', 'dash', 'dot', 'dashdot', 'longdash', 'longdashdot')
LIMIT_COLOUR = '#808080'
FAINT = 0.3  # of a line behind its smoothed one
PLOT_HEIGHT, LEGEND_ROW = 300, 20  # pixels
SHOWN_ELSEWHERE = (*BOOKKEEPING, 'update', 'total_batch', 'base_lr', 'eta', 'step')


@dataclass(frozen=True)
class Line:
    """One curve.

    Attributes:
        name: In the legend.
        points: (x, y); y may be nan or inf, which leaves a gap.
        run: Index of its run.
        second_axis: Whether it belongs to the axis on the right.
        guide: Whether it is a limit and no measurement.
    """

    name: str
    points: Points
    run: int = 0
    second_axis: bool = False
    guide: bool = False


@dataclass(frozen=True)
class Chart:
    """A titled plotly figure, how to read it, and below it what to know about its values."""

    title: str
    figure: dict[str, Any]
    reading: str = ''
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Panel:
    """What a chart shows: its title, its lines for a run (the run's index given), titles of the axes, whether what was logged is
    smoothed, settings of its y axis.
    """

    title: str
    lines: Callable[[RunRecord, int], list[Line]]
    axis: str = ''
    second_axis: str = ''
    log: bool = False
    smooth: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)


def training_charts(records: Sequence[RunRecord]) -> list[Chart]:
    """Charts of what was logged while training; what no run logged has none.

    The x axis is the iteration. Several runs are laid over each other by epoch if all tell how long theirs are, since their
    iterations may hold different numbers of samples; of their losses the sum alone is drawn.
    """
    lengths = [record.text.batches_per_epoch for record in records]
    by_epoch = len(records) > 1 and all(lengths)
    divisors = [length if by_epoch and length else 1 for length in lengths]
    rest = sorted({name for record in records for name in record.training if _is_unclaimed(name)})
    panels = [*TRAINING_PANELS, *(Panel(name, _series(re.compile(rf'^{re.escape(name)}$')), smooth=True) for name in rest)]
    charts = [_chart(panel, records, 'epoch' if by_epoch else 'iteration', divisors) for panel in panels]
    return [chart for chart in charts if chart]


def thinning_note(records: Sequence[RunRecord]) -> str:
    """The sentence about series that are too long to be drawn in full; '' if none is."""
    longest = max(len(points) for record in records for points in record.training.values())
    limit = _limit(records)
    return f'Series of more than {limit} points are drawn with the lowest and highest of each stretch.' if longest > limit else ''


def _limit(records: Sequence[RunRecord]) -> int:
    return points_a_series(sum(len(record.training) for record in records))


def evaluation_charts(records: Sequence[RunRecord]) -> list[Chart]:
    """Charts of the validations: overall scores, average precision by class, mean errors, as far as there are any. Of several
    runs the overall scores alone: their classes and errors stand in a table.
    """
    by_epoch = all(_counts_epochs(record) for record in records)
    sorts = {
        'mAP, NDS and other scores': overall_scores,
        'Average precision by class': class_precisions,
        'Mean errors of true positives': mean_errors,
    }

    def lines(sort: Callable) -> Callable[[RunRecord, int], list[Line]]:
        def of_run(record: RunRecord, run: int) -> list[Line]:
            points: dict[str, list[tuple[float, float]]] = {}
            for evaluation in record.evaluations:
                for name, value in sort(evaluation.values).items():
                    points.setdefault(name, []).append((evaluation.step if by_epoch else evaluation.iteration, value))
            return [Line(name, series, run) for name, series in points.items()]

        return of_run

    panels = [Panel(title, lines(sort)) for title, sort in sorts.items()][: 1 if len(records) > 1 else None]
    charts = [_chart(panel, records, 'epoch' if by_epoch else 'iteration', [1] * len(records)) for panel in panels]
    return [chart for chart in charts if chart]


def _counts_epochs(record: RunRecord) -> bool:
    """Whether the validations' steps are epochs: rising from 1 and smaller than the iterations. MMEngine's loop over iterations
    logs every one of them as epoch 0, and ``log_metric_by_epoch=False`` logs iterations.
    """
    steps = [evaluation.step for evaluation in record.evaluations]
    rising = all(before < after for before, after in zip([0, *steps], steps))
    return rising and all(each.step < max(2, each.iteration) for each in record.evaluations)


# ---- lines of a run


def _series(pattern: re.Pattern, second_axis: bool = False, main: str = '') -> Callable[[RunRecord, int], list[Line]]:
    """Lines of the series whose names match, ``main`` first."""

    def lines(record: RunRecord, run: int) -> list[Line]:
        names = sorted(filter(pattern.search, record.training), key=lambda name: (name != main, name))
        return [Line(name, record.training[name], run, second_axis) for name in names]

    return lines


def _learning_rates(record: RunRecord, run: int) -> list[Line]:
    found = _series(PANELS['learning rate'])(record, run)
    rates = [line.points for line in found if line.name != 'base_lr']
    # MMEngine logs the LR once more as base_lr, which differs where the optimizer wrapper's constructor moves it.
    return [line for line in found if line.name != 'base_lr' or line.points not in rates]


def _gradient_norms(record: RunRecord, run: int) -> list[Line]:
    lines = _series(PANELS['gradient norm'])(record, run)
    if lines and record.clip_norm is not None:
        ends = [(step, record.clip_norm) for step in sorted({lines[0].points[0][0], lines[0].points[-1][0]})]
        lines.append(Line(f'clipped to {record.clip_norm:g}', ends, run, guide=True))
    return lines


def _loss_scale(record: RunRecord, run: int) -> list[Line]:
    return [*_series(re.compile('loss_scale'))(record, run), *_series(re.compile('^skipped_updates$'), True)(record, run)]


def _speed(record: RunRecord, run: int) -> list[Line]:
    """Samples a second, as logged or from the time of an iteration, and which share of it was waiting for data."""
    lines = _series(re.compile('^samples_per_sec$'))(record, run)
    times = {step: value for step, value in record.training.get('time', []) if value > 0}
    if not lines and times and record.plan:
        samples = record.plan.world_size * record.plan.samples_per_rank
        lines = [Line('samples_per_sec', [(step, samples / seconds) for step, seconds in times.items()], run)]
    waits = [(step, 100 * wait / times[step]) for step, wait in record.training.get('data_time', []) if step in times]
    return lines + ([Line('data time %', waits, run, second_axis=True)] if waits else [])


FULL_FROM_ZERO = dict(tickformat=',', rangemode='tozero')  # of values that stand still, ticks between which would be long
TRAINING_PANELS = (
    Panel('Loss terms', _series(PANELS['loss'], main='loss'), log=True, smooth=True),
    Panel('Learning rate', _learning_rates),
    Panel('beta1 / momentum', _series(PANELS['beta1 / momentum'])),
    Panel('Gradient norm', _gradient_norms, log=True, smooth=True),
    Panel('Loss scale and skipped updates', _loss_scale, 'loss scale', 'skipped updates', log=True, settings=FULL_FROM_ZERO),
    Panel('Speed and waiting for data', _speed, 'samples / s', 'waiting, %', smooth=True),
    Panel('GPU memory', _series(re.compile('^memory$')), 'MB', settings=FULL_FROM_ZERO),
)


def _is_unclaimed(name: str) -> bool:
    """Whether a series is shown by none of the panels: matched_ious, clipped_share, accuracies."""
    claimed = [*PANELS.values(), re.compile('loss_scale|^skipped_updates$|^samples_per_sec$')]
    return name not in SHOWN_ELSEWHERE and not any(pattern.search(name) for pattern in claimed)


# ---- figures


def _chart(panel: Panel, records: Sequence[RunRecord], unit: str, divisors: Sequence[int]) -> Chart | None:
    lines = _limits_once([line for run, record in enumerate(records) for line in panel.lines(record, run)])
    if not lines:
        return None
    several = len(records) > 1
    if several and any(line.name == 'loss' for line in lines):  # many terms times many runs cannot be told apart
        lines = [line for line in lines if line.name == 'loss']
    names = list(dict.fromkeys(line.name for line in lines))
    limit = _limit(records)
    traces = [
        trace
        for line in lines
        for trace in _traces(
            line, names.index(line.name), records[line.run].name if several else '', divisors[line.run], limit, panel.smooth
        )
    ]
    notes = [gaps_in_words(line.points, f'{records[line.run].name}: {line.name}' if several else line.name) for line in lines]
    longest = max(len(line.points) for line in lines)
    reading = 'Faint: as logged. Strong: the mean of the values around.' if panel.smooth and smoothing_window(longest) > 1 else ''
    return Chart(panel.title, dict(data=traces, layout=_layout(panel, lines, unit, several)), reading, [note for note in notes if note])


def _limits_once(lines: Sequence[Line]) -> list[Line]:
    """The lines; a limit that several runs share once, as long as the longest of them."""
    guides: dict[str, Line] = {}
    for line in lines:
        if line.guide and (line.name not in guides or line.points[-1][0] > guides[line.name].points[-1][0]):
            guides[line.name] = line
    return [line for line in lines if not line.guide] + list(guides.values())


def _traces(line: Line, index: int, run_name: str, divisor: int, limit: int, smooth: bool) -> list[dict[str, Any]]:
    """The line; smoothed, with what was logged faint behind it, where that is asked for and it is long enough."""
    name = html.escape(f'{run_name} · {line.name}' if run_name and not line.guide else line.name)
    colour = LIMIT_COLOUR if line.guide else PALETTE[(line.run if run_name else index) % len(PALETTE)]
    turn = index if run_name else index // len(PALETTE)
    stroke = dict(
        color=colour, width=1.5 + 1.5 * (line.name == 'loss' and not run_name), dash='dash' if line.guide else DASHES[turn % len(DASHES)]
    )
    settings = dict(type='scatter', legendgroup=name, yaxis='y2' if line.second_axis else 'y', connectgaps=False)
    raw = coordinates(thinned(line.points, limit), divisor)
    if smooth and smoothing_window(len(line.points)) > 1:
        faint = dict(
            settings,
            name=f'{name}, as logged',
            mode='lines',
            line=dict(color=colour, width=1),
            opacity=FAINT,
            showlegend=False,
            hoverinfo='skip',
            **raw,
        )
        strong = coordinates(thinned(smoothed(line.points), limit // 2), divisor)
        return [faint, dict(settings, name=name, mode='lines', line=stroke, **strong)]
    marked = len(line.points) <= MAX_MARKED or None in raw['y']  # a value between two gaps has no line
    return [
        dict(
            settings,
            name=name,
            mode='lines+markers' if marked and not line.guide else 'lines',
            line=stroke,
            marker=dict(color=colour, size=5),
            **raw,
        )
    ]


def _layout(panel: Panel, lines: Sequence[Line], unit: str, several: bool) -> dict[str, Any]:
    sides = {line.second_axis for line in lines}
    rows = len(lines) if several else (len(lines) + 1) // 2  # on a phone, where it is narrow
    first = [value for line in lines if not line.second_axis for _, value in line.points]
    # D2: labels at 1, 2 and 5 of each power of ten
    scale = dict(type='log', dtick='D2') if panel.log and spans_decades(first) else dict(type='linear')
    layout = dict(
        height=PLOT_HEIGHT + LEGEND_ROW * rows,
        hovermode='x unified',
        showlegend=True,
        margin=dict(l=40, r=40 if len(sides) > 1 else 16, t=30, b=45),
        legend=dict(orientation='h', yref='container', y=0, yanchor='bottom'),
        xaxis=dict(title=dict(text=unit, standoff=6), automargin=True),
    )
    if False in sides:
        layout['yaxis'] = dict(title=dict(text=panel.axis), automargin=True, exponentformat='e', **scale, **panel.settings)
    if True in sides:
        layout['yaxis2'] = dict(
            title=dict(text=panel.second_axis),
            automargin=True,
            rangemode='tozero',
            showgrid=len(sides) == 1,
            tickmode='auto',
            **(dict(overlaying='y', side='right') if len(sides) > 1 else {}),
        )
    return layout
