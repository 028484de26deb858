import math

import pytest

from bevfusion_plugin.engine.schedules.curves import cosine, cosine_warmup, one_cycle, staircase_cosine, step_decay


def test_cosine_starts_ends_and_has_its_mean_half_way():
    assert cosine(1.0, 3.0, 0.0) == 1.0
    assert cosine(1.0, 3.0, 1.0) == 3.0
    assert cosine(1.0, 3.0, 0.5) == pytest.approx(2.0, rel=1e-15)


def test_one_cycle_of_ten_updates_by_hand():
    # turn at int(0.4 * 10) = 4; half way up at update 2: 1 + (0.1 - 1) / 2 = 0.55; half way down at 7: (1 + 0) / 2
    values = [one_cycle(index, 10, 0.4, 0.1, 1.0, 0.0) for index in range(10)]
    assert values[0] == pytest.approx(0.1, rel=1e-14)
    assert values[2] == pytest.approx(0.55, rel=1e-14)
    assert values[4] == 1.0
    assert values[7] == pytest.approx(0.5, rel=1e-14)
    assert values[9] == pytest.approx((1 + math.cos(math.pi * 5 / 6)) / 2, rel=1e-14)  # short of the end


def test_one_cycle_turns_at_the_integer_part_of_the_floating_product():
    assert 0.29 * 100 < 29
    assert one_cycle(28, 100, 0.29, 0.1, 1.0, 0.0) == 1.0


@pytest.mark.parametrize('total_steps, pct_start', [(7, 0.1), (2, 0.4), (1, 0.4), (10, 0.0)])
def test_one_cycle_without_a_first_phase_starts_at_the_peak(total_steps, pct_start):
    assert one_cycle(0, total_steps, pct_start, 0.1, 1.0, 0.0) == 1.0


def test_one_cycle_with_only_a_first_phase_never_turns():
    values = [one_cycle(index, 10, 1.0, 0.1, 1.0, 0.0) for index in range(10)]
    assert values == sorted(values)
    assert values[-1] < 1.0


@pytest.mark.parametrize(
    'curve', [lambda index: one_cycle(index, 10, 0.4, 0.1, 1.0, 0.0), lambda index: staircase_cosine(index, 10, 5, 3, 1.0)]
)
def test_past_the_end_the_last_value_stays(curve):
    assert [curve(index) for index in (10, 13, 16, 1000)] == [curve(9)] * 4


def test_staircase_is_constant_within_an_epoch_and_stops_short_of_a_thousandth():
    values = [staircase_cosine(index, 12, 6, 0, 1.0) for index in range(12)]
    assert values[::2] == values[1::2]
    assert values[::2] == pytest.approx([1, 0.93307, 0.75025, 0.5005, 0.25075, 0.06792], rel=1e-4)


def test_staircase_warms_up_from_a_third_and_jumps_where_it_spans_epochs():
    values = [staircase_cosine(index, 12, 6, 5, 1.0) for index in range(12)]
    assert values[0] == pytest.approx(1 / 3, abs=1e-8)
    assert values[4] == pytest.approx(1 - 0.2 * (1 - 1 / 3), abs=1e-8)
    assert values[5] == pytest.approx(0.75025, rel=1e-4)


def test_step_decay_counts_every_milestone_reached():
    assert [step_decay(index, (4, 2), 0.1, 0.0, 1.0) for index in range(6)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    assert step_decay(2, (2, 2), 0.1, 0.0, 1.0) == pytest.approx(0.01)
    assert step_decay(0, (0,), 0.1, 0.0, 1.0) == pytest.approx(0.1)


def test_step_decay_floor_may_lie_above_the_peak_but_spares_a_peak_of_zero():
    assert step_decay(0, (1,), 0.1, 0.002, 0.001) == 0.002
    assert step_decay(0, (1,), 0.1, 0.002, 0.0) == 0.0


def test_cosine_warmup_rises_to_its_peak_and_stays():
    assert cosine_warmup(0, 10, 0.1, 1.0) == pytest.approx(0.1)
    assert cosine_warmup(5, 10, 0.1, 1.0) == pytest.approx(0.55)
    assert [cosine_warmup(index, 10, 0.1, 1.0) for index in (10, 15, 20)] == [1.0] * 3
