"""What the doctor says about a config, and the list of its rules."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bevfusion_plugin.doctor.case import Case

SEVERITIES = ('error', 'warning', 'info')
MMENGINE = 'https://github.com/open-mmlab/mmengine/blob/v0.10.7/mmengine'  # evidence: the version that behaves so


@dataclass(frozen=True)
class Problem:
    """What a rule yields.

    Attributes:
        message: What is wrong, with the value found.
        mend: How to correct it, in a sentence a user can follow.
        changes: Dotted config keys and the values that mend it (``--fix`` writes them); empty where a person must decide.
        severity: Other than the rule's own, for this case.
    """

    message: str
    mend: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    severity: str | None = None


@dataclass(frozen=True)
class Finding:
    """A problem with the rule that found it."""

    rule: str
    severity: str
    message: str
    mend: str
    evidence: str
    changes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Rule:
    """One thing that is known to go wrong.

    Attributes:
        name: Its id, words joined by hyphens.
        severity: One of SEVERITIES.
        evidence: Where it was reported: an address, or the file of the library that behaves so.
        check: Yields the problems of a case; none where the rule does not apply.
        is_need: Whether it asks for what no run can start without, rather than whether the training would come out right.
    """

    name: str
    severity: str
    evidence: str
    check: Callable[[Case], Iterator[Problem]]
    is_need: bool = False


RULES: dict[str, Rule] = {}


def rule(name: str, severity: str, evidence: str, is_need: bool = False) -> Callable:
    """Decorator that enters a function ``check(case) -> Iterator[Problem]`` into RULES.

    Raises:
        ValueError: If the name is taken or the severity unknown.
    """
    if severity not in SEVERITIES:
        raise ValueError(f'severity must be one of {", ".join(SEVERITIES)}, got {severity!r}')

    def enter(check: Callable[[Case], Iterator[Problem]]) -> Callable[[Case], Iterator[Problem]]:
        if name in RULES:
            raise ValueError(f'there is a rule {name!r} already')
        RULES[name] = Rule(name, severity, evidence, check, is_need)
        return check

    return enter
