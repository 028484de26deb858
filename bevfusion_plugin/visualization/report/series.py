"""Series of a chart made light and readable: thinned to what a page can hold, smoothed to what an eye can follow.

Letters: n values of a series.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from bevfusion_plugin.visualization.training_curves import LOG_AXIS_RANGE

Points = Sequence[tuple[float, float]]

MAX_POINTS = 1000  # of a series; more than the pixels of its chart on most screens
MIN_POINTS = 100
MAX_NAMED_STEPS = 12
PAGE_POINTS = 30_000  # of all series as they were logged, some 700 kB
SMOOTHED_SHARE = 25  # a smoothed value is the mean of n / 25 around it


def points_a_series(series: int) -> int:
    """Points that each of so many series may have on a page."""
    return min(MAX_POINTS, max(MIN_POINTS, PAGE_POINTS // max(1, series)))


def smoothing_window(count: int) -> int:
    """Values whose mean a smoothed one is, an odd number; 1 for a series of fewer than 50, which is shown as it is."""
    return count // (2 * SMOOTHED_SHARE) * 2 + 1


def smoothed(points: Points) -> Points:
    """Each value replaced by the mean of the finite ones around it; one that is not finite stays."""
    values = np.array([value for _, value in points], dtype=float)  # (n,)
    finite = np.isfinite(values)
    around = np.ones(smoothing_window(len(values)))
    sums, counts = np.convolve(np.where(finite, values, 0), around, 'same'), np.convolve(finite, around, 'same')
    means = np.where(finite, sums / np.maximum(counts, 1), values)
    return [(step, float(mean)) for (step, _), mean in zip(points, means)]


def last_mean(points: Points) -> float | None:
    """The mean of the last n / 25 values, of those that are finite; None if none is."""
    values = [value for _, value in points[-max(1, len(points) // SMOOTHED_SHARE) :] if math.isfinite(value)]
    return math.fsum(values) / len(values) if values else None


def thinned(points: Points, limit: int) -> Points:
    """At most ``limit`` of the points, if there are more: of each stretch the lowest and the highest, a value that is not finite
    in place of the lowest. No spike and no gap is lost.
    """
    if len(points) <= limit:
        return points
    size = -(-len(points) // (limit // 2))
    return [point for begin in range(0, len(points), size) for point in _extremes(points[begin : begin + size])]


def _extremes(points: Points) -> Points:
    finite = sorted((point for point in points if math.isfinite(point[1])), key=lambda point: point[1])
    gaps = [point for point in points if not math.isfinite(point[1])]
    chosen = [*gaps[:1], *finite[-1:], *finite[:1]][:2]
    return sorted(dict.fromkeys(chosen), key=lambda point: point[0])


def six_digits(value: float) -> float | None:
    """``value`` as it is written into the page, where more digits are only bytes; None, a gap, if it is not finite."""
    if not math.isfinite(value):
        return None
    return value if isinstance(value, int) else float(f'{value:.6g}')


def spans_decades(values: Sequence[float]) -> bool:
    """Whether a logarithmic axis shows the values better: all above zero, the largest far above the smallest."""
    finite = [value for value in values if math.isfinite(value)]
    return bool(finite) and 0 < LOG_AXIS_RANGE * min(finite) < max(finite)


def gaps_in_words(points: Points, name: str) -> str:
    """The sentence that names the gaps of a series; '' if it has none."""
    steps = [f'{step}' for step, value in points if not math.isfinite(value)]
    if not steps:
        return ''
    more = f' and {len(steps) - MAX_NAMED_STEPS} more' if len(steps) > MAX_NAMED_STEPS else ''
    places = f'{"steps" if len(steps) > 1 else "step"} {", ".join(steps[:MAX_NAMED_STEPS])}'
    return f'{name} was not finite at {places}{more}.'


def coordinates(points: Points, divisor: int) -> dict[str, list]:
    """The points as plotly takes them, the steps divided by ``divisor``."""
    return dict(
        x=[step if divisor == 1 else six_digits(step / divisor) for step, _ in points], y=[six_digits(value) for _, value in points]
    )
