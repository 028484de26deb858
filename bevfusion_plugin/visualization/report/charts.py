"""The report's charts as plotly figures (plain dicts), drawn from one run or from several laid over each other.

Colours of text and grid are left to the page, which knows whether it is read in the light or in the dark.
"""
from __future__ import annotations

import html
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from bevfusion_plugin.visualization.evaluation_scores import BOOKKEEPING, class_precisions, mean_errors, overall_scores
from bevfusion_plugin.visualization.report.run_record import RunRecord
from bevfusion_plugin.visualization.training_curves import LOG_AXIS_RANGE, MAX_MARKED, PANELS

Points = Sequence[tuple[float, float]]

# Each at least 3:1 against white and against the dark background (WCAG 2.1, 1.4.11).
PALETTE = ('#2f7ed8', '#d9480f', '#2b8a3e', '#ae3ec9', '#b8860b', '#0c8599', '#e03131', '#6f7d8c', '#9c6644', '#7048e8')
DASHES = ('solid', 'dash', 'dot', 'dashdot', 'longdash', 'longdashdot')
MAX_POINTS = 4000  # of a series; about what a screen can show, and a page of 30 series stays small
MAX_NAMED_STEPS = 12
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
        hidden: Whether a click in the legend is needed to see it.
        guide: Whether it is a limit and no measurement.
    """
    name: str
    points: Points
    run: int = 0
    second_axis: bool = False
    hidden: bool = False
    guide: bool = False


@dataclass(frozen=True)
class Chart:
    """A titled plotly figure and lines of text below it."""
    title: str
    figure: dict[str, Any]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Panel:
    """What a chart shows: its title, its lines for a run (the run's index given), titles of the axes."""
    title: str
    lines: Callable[[RunRecord, int], list[Line]]
    axis: str = ''
    second_axis: str = ''
    log: bool = False


def training_charts(records: Sequence[RunRecord]) -> list[Chart]:
    """Charts of what was logged while training; what no run logged has none.

    The x axis is the iteration. Several runs are laid over each other by epoch if all tell how long theirs are, since their
    iterations may hold different numbers of samples.
    """
    lengths = [record.text.batches_per_epoch for record in records]
    by_epoch = len(records) > 1 and all(lengths)
    divisors = [length if by_epoch and length else 1 for length in lengths]
    rest = sorted({name for record in records for name in record.training if _is_unclaimed(name)})
    panels = [*TRAINING_PANELS, *(Panel(name, _series(re.compile(rf'^{re.escape(name)}$'))) for name in rest)]
    charts = [_chart(panel, records, 'epoch' if by_epoch else 'iteration', divisors) for panel in panels]
    return [chart for chart in charts if chart]


def evaluation_charts(records: Sequence[RunRecord]) -> list[Chart]:
    """Charts of the validations: overall scores, average precision by class, mean errors, as far as there are any."""
    by_epoch = all(_counts_epochs(record) for record in records)
    sorts = {'mAP, NDS and other scores': overall_scores, 'Average precision by class': class_precisions,
             'Mean errors of true positives': mean_errors}

    def lines(sort: Callable) -> Callable[[RunRecord, int], list[Line]]:
        def of_run(record: RunRecord, run: int) -> list[Line]:
            points: dict[str, list[tuple[float, float]]] = {}
            for evaluation in record.evaluations:
                for name, value in sort(evaluation.values).items():
                    points.setdefault(name, []).append((evaluation.step if by_epoch else evaluation.iteration, value))
            return [Line(name, series, run) for name, series in points.items()]
        return of_run

    panels = [Panel(title, lines(sort)) for title, sort in sorts.items()]
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


TRAINING_PANELS = (
    Panel('Loss terms', _series(PANELS['loss'], main='loss'), log=True),
    Panel('Learning rate', _learning_rates),
    Panel('beta1 / momentum', _series(PANELS['beta1 / momentum'])),
    Panel('Gradient norm', _gradient_norms, log=True),
    Panel('Loss scale and skipped updates', _loss_scale, 'loss scale', 'skipped updates', log=True),
    Panel('Speed and waiting for data', _speed, 'samples / s', 'data time, % of an iteration'),
    Panel('GPU memory', _series(re.compile('^memory$')), 'MB'),
)


def _is_unclaimed(name: str) -> bool:
    """Whether a series is shown by none of the panels: matched_ious, clipped_share, accuracies."""
    claimed = [*PANELS.values(), re.compile('loss_scale|^skipped_updates$|^samples_per_sec$')]
    return name not in SHOWN_ELSEWHERE and not any(pattern.search(name) for pattern in claimed)


# ---- figures

def _chart(panel: Panel, records: Sequence[RunRecord], unit: str, divisors: Sequence[int]) -> Chart | None:
    lines = [line for run, record in enumerate(records) for line in panel.lines(record, run)]
    if not lines:
        return None
    several = len(records) > 1
    names = list(dict.fromkeys(line.name for line in lines))
    if several and 'loss' in names:  # of many terms times many runs, first the sums
        lines = [Line(**{**vars(line), 'hidden': line.name != 'loss'}) for line in lines]
    traces = [_trace(line, names.index(line.name), records[line.run].name if several else '', divisors[line.run])
              for line in lines]
    notes = [_not_finite(line, records[line.run].name if several else '') for line in lines]
    if any(len(line.points) > MAX_POINTS for line in lines):
        notes.append(f'Series of more than {MAX_POINTS} points are drawn with the lowest and highest of each stretch.')
    return Chart(panel.title, dict(data=traces, layout=_layout(panel, lines, unit, several)), [note for note in notes if note])


def _trace(line: Line, index: int, run_name: str, divisor: int) -> dict[str, Any]:
    points = thinned(line.points)
    colour = PALETTE[(line.run if run_name else index) % len(PALETTE)]
    heights = [value if math.isfinite(value) else None for _, value in points]
    width = 1.5 + 1.5 * (line.name == 'loss' and not run_name)
    turn = index if run_name else index // len(PALETTE)
    stroke = dict(color=colour, width=width, dash='dash' if line.guide else DASHES[turn % len(DASHES)])
    name = f'{run_name} · {line.name}' if run_name else line.name
    marked = len(points) <= MAX_MARKED or None in heights  # a value between two gaps has no line
    return dict(type='scatter', mode='lines+markers' if marked and not line.guide else 'lines', name=html.escape(name),
                x=[step if divisor == 1 else step / divisor for step, _ in points], y=heights, line=stroke,
                marker=dict(color=colour, size=5), yaxis='y2' if line.second_axis else 'y',
                visible='legendonly' if line.hidden else True, connectgaps=False)


def _layout(panel: Panel, lines: Sequence[Line], unit: str, several: bool) -> dict[str, Any]:
    sides = {line.second_axis for line in lines}
    rows = len(lines) if several else (len(lines) + 1) // 2  # on a phone, where it is narrow
    first = [value for line in lines if not line.second_axis for _, value in line.points]
    # D2: labels at 1, 2 and 5 of each power of ten
    scale = dict(type='log', dtick='D2') if panel.log and spans_decades(first) else dict(type='linear')
    layout = dict(height=PLOT_HEIGHT + LEGEND_ROW * rows, hovermode='x unified', showlegend=True,
                  margin=dict(l=60, r=60 if len(sides) > 1 else 16, t=30, b=45),
                  legend=dict(orientation='h', yref='container', y=0, yanchor='bottom'),
                  xaxis=dict(title=dict(text=unit, standoff=6), automargin=True))
    if False in sides:
        layout['yaxis'] = dict(title=dict(text=panel.axis), exponentformat='e', **scale)
    if True in sides:
        layout['yaxis2'] = dict(title=dict(text=panel.second_axis), rangemode='tozero', showgrid=len(sides) == 1, tickmode='auto',
                                **(dict(overlaying='y', side='right') if len(sides) > 1 else {}))
    return layout


def spans_decades(values: Sequence[float]) -> bool:
    """Whether a logarithmic axis shows the values better: all above zero, the largest far above the smallest."""
    finite = [value for value in values if math.isfinite(value)]
    return bool(finite) and 0 < LOG_AXIS_RANGE * min(finite) < max(finite)


def thinned(points: Points, limit: int = MAX_POINTS) -> Points:
    """At most ``limit`` of the points, if there are more: of each stretch the lowest and the highest, a value that is not finite
    in place of the lowest. No spike and no gap is lost.
    """
    if len(points) <= limit:
        return points
    size = -(-len(points) // (limit // 2))
    return [point for begin in range(0, len(points), size) for point in _extremes(points[begin:begin + size])]


def _extremes(points: Points) -> Points:
    finite = sorted((point for point in points if math.isfinite(point[1])), key=lambda point: point[1])
    gaps = [point for point in points if not math.isfinite(point[1])]
    chosen = [*gaps[:1], *finite[-1:], *finite[:1]][:2]
    return sorted(dict.fromkeys(chosen), key=lambda point: point[0])


def _not_finite(line: Line, run_name: str) -> str:
    """The sentence that names the gaps of a line; '' if it has none."""
    steps = [f'{step}' for step, value in line.points if not math.isfinite(value)]
    if not steps:
        return ''
    more = f' and {len(steps) - MAX_NAMED_STEPS} more' if len(steps) > MAX_NAMED_STEPS else ''
    owner = f'{run_name}: ' if run_name else ''
    places = f'{"steps" if len(steps) > 1 else "step"} {", ".join(steps[:MAX_NAMED_STEPS])}'
    return f'{owner}{line.name} was not finite at {places}{more}.'
