"""Settings that a user wrote, checked one by one: the value itself, or an error that names it, shows it and says how to mend it.

``name`` is the setting's name and ``mend`` how to correct it, the end of the message. All raise ValueError. True and False are no
numbers here, nor is text: they are typing errors that Python would compute with.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any, TypeGuard

LARGEST = 2**62  # int: fits 64 bits with room to add
MOST_CHANNELS = 2**16
MOST_CELLS = 2**20  # along one axis: three of them still have an index in 64 bits


def is_finite_number(value: Any) -> TypeGuard[float]:
    """Whether ``value`` is a number, Python's or numpy's, and neither NaN nor infinite."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    return is_number and abs(value) <= sys.float_info.max


def is_sequence(value: Any) -> TypeGuard[Sequence[Any]]:
    """Whether ``value`` is a row of things, also numpy's; text and dicts are none."""
    has_items = hasattr(value, '__len__') and hasattr(value, '__getitem__') and not isinstance(value, (str, bytes, Mapping))
    return has_items and getattr(value, 'ndim', 1) == 1


def whole_number(name: str, value: Any, least: int, most: int = LARGEST, mend: str = '') -> int:
    """``value`` itself, an int from ``least`` to ``most``; 2.0 is refused, too."""
    is_whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not is_whole or not least <= value <= most:
        wanted = f'an int >= {least}' if most == LARGEST else f'an int from {least} to {most}'
        raise _refused(name, wanted, value, mend)
    return value


def positive_int(name: str, value: Any, mend: str = '') -> int:
    """``value`` itself, an int >= 1."""
    return whole_number(name, value, 1, mend=mend)


def finite_number(name: str, value: Any, least: float = -math.inf, most: float = math.inf, mend: str = '') -> float:
    """``value`` itself, a finite number from ``least`` to ``most``."""
    if not is_finite_number(value) or not least <= value <= most:
        between = f' from {least:g} to {most:g}' if most < math.inf else f' >= {least:g}' if least > -math.inf else ''
        raise _refused(name, f'a finite number{between}', value, mend)
    return value


def positive(name: str, value: Any, below: float = math.inf, mend: str = '') -> float:
    """``value`` itself, a finite number above 0 and below ``below``."""
    if not is_finite_number(value) or not 0 < value < below:
        raise _refused(name, '> 0' if below == math.inf else f'> 0 and < {below:g}', value, mend)
    return value


def checked_share(name: str, value: Any, mend: str = '') -> float:
    """``value`` itself, in [0, 1]."""
    if not is_finite_number(value) or not 0 <= value <= 1:
        raise _refused(name, 'in [0, 1]', value, mend)
    return value


def finite_numbers(name: str, value: Any, length: int | None = None, least: float = -math.inf, mend: str = '') -> Sequence[float]:
    """``value`` itself, a sequence of finite numbers >= ``least``; of ``length``, if that is given."""
    is_row = is_sequence(value) and length in (None, len(value))
    if not is_row or not all(is_finite_number(item) and item >= least for item in value):
        wanted = f'{"" if length is None else f"{length} "}finite numbers{f" >= {least:g}" if least > -math.inf else ""}'
        raise _refused(name, wanted, value, mend)
    return value


def positive_numbers(name: str, value: Any, length: int | None = None, mend: str = '') -> Sequence[float]:
    """``value`` itself, a sequence of finite numbers > 0; of ``length``, if that is given."""
    if not all(item > 0 for item in finite_numbers(name, value, length, mend=mend)):
        raise _refused(name, 'finite numbers > 0', value, mend)
    return value


def whole_numbers(name: str, value: Any, length: int | None = None, least: int = 1, mend: str = '') -> Sequence[int]:
    """``value`` itself, a sequence of ints >= ``least``; of ``length``, if that is given."""
    finite_numbers(name, value, length, least, mend)
    if not all(isinstance(item, Integral) for item in value):
        raise _refused(name, f'ints >= {least}', value, mend)
    return value


def channel_count(name: str, value: Any) -> int:
    """``value`` itself, channels or other things that a layer has one weight or more of each."""
    return whole_number(name, value, 1, MOST_CHANNELS)


def channel_counts(name: str, value: Any, least: int = 1) -> Sequence[int]:
    """``value`` itself, the channels of ``least`` or more things."""
    whole_numbers(name, value)
    if len(value) < least or max(value) > MOST_CHANNELS:
        raise _refused(name, f'{least} or more ints from 1 to {MOST_CHANNELS}', value)
    return value


def low_and_high(name: str, value: Any, least: float = -math.inf, most: float = math.inf, mend: str = '') -> Sequence[float]:
    """``value`` itself, two finite numbers from ``least`` to ``most``, the lower one first or both the same."""
    finite_numbers(name, value, 2, mend=mend)
    if not least <= value[0] <= value[1] <= most:
        raise _refused(name, f'two numbers from {least:g} to {most:g}, the lower one first', value, mend)
    return value


def corners(name: str, value: Any, mend: str = '') -> Sequence[float]:
    """``value`` itself, (x, y, z, x, y, z): the lower and then the upper corner of a box in space."""
    finite_numbers(name, value, 6, mend=mend)
    if not all(low < high for low, high in zip(value[:3], value[3:])):
        raise _refused(name, '(x, y, z, x, y, z), the lower corner first', value, mend)
    return value


def grid_axis(name: str, value: Any, mend: str = '') -> Sequence[float]:
    """``value`` itself, (lower, upper, step) of an axis with 1 to :data:`MOST_CELLS` cells."""
    finite_numbers(name, value, 3, mend=mend)
    lower, upper, step = value
    if not (lower < upper and 0 < step and 1 <= (upper - lower) / step <= MOST_CELLS):
        raise _refused(name, f'(lower, upper, step) with lower < upper and 1 to {MOST_CELLS} steps between them', value, mend)
    return value


def switch(name: str, value: Any, mend: str = 'write it without quotes') -> bool:
    """``value`` itself, True or False. Text is refused, since Python takes ``'False'`` for true."""
    if not isinstance(value, bool):
        raise _refused(name, 'True or False', value, mend)
    return value


def one_of(name: str, value: Any, choices: tuple[str, ...]) -> str:
    """``value`` itself, one of ``choices``; the message lists them."""
    if value not in choices:
        raise _refused(name, f'one of {", ".join(map(repr, choices))}', value)
    return value


def non_empty_text(name: str, value: Any, mend: str = '') -> str:
    """``value`` itself, text with at least one letter."""
    if not isinstance(value, str) or not value:
        raise _refused(name, 'text', value, mend)
    return value


def texts(name: str, value: Any, mend: str = '') -> Sequence[str]:
    """``value`` itself, a sequence of texts, none of them empty."""
    if not is_sequence(value) or not all(isinstance(item, str) and item for item in value):
        raise _refused(name, 'a list of texts', value, mend)
    return value


def file_path(name: str, value: Any, mend: str = '') -> str | os.PathLike:
    """``value`` itself, what names a file or a folder."""
    if not isinstance(value, (str, os.PathLike)) or not str(value):
        raise _refused(name, 'a path', value, mend)
    return value


def settings_dict(name: str, value: Any, *keys: str, mend: str = '') -> Mapping:
    """``value`` itself, a dict that has at least ``keys``."""
    if not isinstance(value, Mapping) or not set(keys) <= set(value):
        raise _refused(name, f'a dict{" with " if keys else ""}{", ".join(keys)}', value, mend)
    return value


def _refused(name: str, wanted: str, value: Any, mend: str = '') -> ValueError:
    return ValueError(f'{name} must be {wanted}, got {value!r}{mend and "; "}{mend}')
