import math

import numpy as np
import pytest

from bevfusion_plugin.visualization.report.series import (
    MAX_POINTS,
    MIN_POINTS,
    PAGE_POINTS,
    last_mean,
    points_a_series,
    six_digits,
    smoothed,
    smoothing_window,
    thinned,
)


def test_a_long_series_is_thinned_without_losing_spikes_or_gaps():
    points = [(number, math.sin(number)) for number in range(100_000)]
    points[77_777] = (77_777, 99.0)
    points[5] = (5, math.nan)
    thin = thinned(points, 1000)
    assert 250 < len(thin) <= 1000 and (77_777, 99.0) in thin and points[5] in thin
    assert [x for x, _ in thin] == sorted({x for x, _ in thin})
    assert min(y for x, y in thin if x != 5) == min(y for x, y in points if x != 5)
    assert thinned(points[:1000], 1000) == points[:1000]


def test_many_series_share_the_points_of_a_page():
    assert points_a_series(0) == points_a_series(30) == MAX_POINTS
    assert points_a_series(60) == PAGE_POINTS // 60 and points_a_series(10_000) == MIN_POINTS


def test_a_smoothed_value_is_the_mean_of_the_finite_ones_around_it():
    values = np.random.default_rng(0).normal(size=120)
    values[[7, 60]] = math.nan, math.inf
    half = smoothing_window(120) // 2
    means = [value for _, value in smoothed(list(enumerate(values)))]
    for place, mean in enumerate(means):
        around = values[max(0, place - half) : place + half + 1]
        expected = around[np.isfinite(around)].mean() if np.isfinite(values[place]) else values[place]
        np.testing.assert_allclose(mean, expected)


def test_a_spike_leaves_the_values_far_from_it_as_they_are():
    points = [(number, 1.0) for number in range(200)]
    points[100] = (100, 1e30)
    assert smoothed(points)[50] == (50, 1.0) and smoothed(points)[100][1] > 1e28


@pytest.mark.parametrize('count, window', [(1, 1), (49, 1), (50, 3), (100, 5), (1854, 75)])
def test_the_window_is_a_twenty_fifth_of_the_series_and_short_ones_stay_as_they_are(count, window):
    assert smoothing_window(count) == window


def test_the_last_mean_is_of_a_twenty_fifth_and_of_finite_values():
    assert last_mean([(number, float(number)) for number in range(100)]) == 97.5
    assert last_mean([(1, 5.0)]) == 5.0 and last_mean([(1, math.nan)]) is None


@pytest.mark.parametrize('value, written', [(1.23456789, 1.23457), (123_456_789, 123_456_789), (math.nan, None), (-math.inf, None)])
def test_the_page_has_six_digits_and_no_nan(value, written):
    assert six_digits(value) == written
