"""Settings that a user wrote, checked one by one: the value itself, or an error that names it, shows it and says how to mend it."""
from __future__ import annotations

from typing import Any


def positive_int(name: str, value: Any, mend: str) -> int:
    """``value`` itself, an int >= 1.

    Args:
        name: The setting's name, for the message.
        value: What the user wrote. ``True`` and 2.0 are refused too: they are typing errors.
        mend: How to correct it, the end of the message.

    Raises:
        ValueError: If it is anything else.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f'{name} must be an int >= 1, got {value!r}; {mend}')
    return value


def switch(name: str, value: Any, mend: str) -> bool:
    """``value`` itself, True or False.

    Args:
        name: The setting's name, for the message.
        value: What the user wrote. Text is refused, since Python takes ``'False'`` for true.
        mend: How to correct it, the end of the message.

    Raises:
        ValueError: If it is anything else.
    """
    if not isinstance(value, bool):
        raise ValueError(f'{name} must be True or False, got {value!r}; {mend}')
    return value


def one_of(name: str, value: Any, choices: tuple[str, ...]) -> str:
    """``value`` itself, one of ``choices``.

    Raises:
        ValueError: If it is not; the message lists the choices.
    """
    if value not in choices:
        raise ValueError(f'{name} must be one of {", ".join(map(repr, choices))}, got {value!r}')
    return value


def checked_share(name: str, value: float) -> float:
    """``value`` itself, a share of the training in [0, 1].

    Raises:
        ValueError: If it is outside.
    """
    if not 0 <= value <= 1:
        raise ValueError(f'{name} must be in [0, 1], got {value}')
    return value


def positive(name: str, value: float) -> float:
    """``value`` itself, a number > 0.

    Raises:
        ValueError: If it is not.
    """
    if not value > 0:
        raise ValueError(f'{name} must be > 0, got {value}')
    return value
