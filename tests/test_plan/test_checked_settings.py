import math

import numpy as np
import pytest

from bevfusion_plugin.plan import checked_settings as checks


@pytest.mark.parametrize(
    'check, args, good, bad',
    [
        (checks.whole_number, (0, 3), [0, 3, np.int64(2)], [-1, 4, 2.0, True, '2', math.nan, None]),
        (checks.positive_int, (), [1, 10**6], [0, 1.5, False, 10**400]),
        (checks.finite_number, (0, 5), [0, 5, 2.5, np.float32(1)], [-1e-9, 6, math.inf, '1', True, [1], 10**400]),
        (checks.positive, (1,), [1e-9, 0.5], [0, 1, -1, math.nan, None]),
        (checks.checked_share, (), [0, 1, 0.5], [-0.1, 1.1, math.nan, '0.5', True]),
        (
            checks.finite_numbers,
            (2,),
            [[1, 2.5], (0, 0), np.zeros(2)],
            [[1], '12', [1, math.nan], [1, '2'], {1: 2, 3: 4}, 5, np.zeros((2, 2))],
        ),
        (checks.whole_numbers, (2,), [[1, 2], (3, 3)], [[1, 2.0], [0, 1], [True, 1], [1]]),
        (checks.channel_counts, (2,), [[1, 2], (4, 4, 4)], [[1], [], [1, 10**9]]),
        (checks.low_and_high, (0, 2), [[0, 2], (1, 1)], [[2, 0], [-1, 1], [0, 3], [1], 1]),
        (checks.corners, (), [[0, 0, 0, 1, 1, 1]], [[0, 0, 0, 1, 1, 0], [0, 0, 0, 1, 1], [math.nan] * 6]),
        (checks.grid_axis, (), [[-54.0, 54.0, 0.3], (0, 1, 1)], [[0, 1, 1e-9], [0, 1, 2], [1, 0, 0.1], [0, 1, 0], [0, 1, -1]]),
        (checks.switch, (), [True, False], ['False', 0, 1, None]),
        (checks.one_of, (('a', 'b'),), ['a'], ['c', None, ['a']]),
        (checks.non_empty_text, (), ['x'], ['', 3, None]),
        (checks.file_path, (), ['x.html'], ['', 3, True]),
        (checks.settings_dict, ('type',), [dict(type='x', other=1)], [dict(), 'type', None, ['type']]),
    ],
)
def test_a_check_gives_the_value_back_or_names_setting_and_value(check, args, good, bad):
    for value in good:
        assert check('the_setting', value, *args) is value
    for value in bad:
        with pytest.raises(ValueError) as error:
            check('the_setting', value, *args)
        assert 'the_setting must be ' in str(error.value) and repr(value) in str(error.value)
