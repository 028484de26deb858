"""All rules on one case."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator

from bevfusion_plugin.doctor import rules
from bevfusion_plugin.doctor.case import Case
from bevfusion_plugin.doctor.finding import RULES, SEVERITIES, Finding, Rule


def all_rules() -> dict[str, Rule]:
    """Every rule by its name: those of the modules in ``rules``, in the order of these, whichever was imported first."""
    for module in pkgutil.iter_modules(rules.__path__):
        importlib.import_module(f'{rules.__name__}.{module.name}')
    return dict(sorted(RULES.items(), key=lambda item: item[1].check.__module__))


def examine(case: Case, min_severity: str = 'info', needs_only: bool = False) -> list[Finding]:
    """What the rules find, errors first.

    Args:
        case: The config and how it is to be trained; it is not changed.
        min_severity: The mildest severity wanted. Rules that never find anything as severe are not even asked.
        needs_only: Ask only for what the run cannot start without.

    Raises:
        ValueError: If the severity is unknown, or a rule found something more severe than it announced.
    """
    if min_severity not in SEVERITIES:
        raise ValueError(f'min_severity must be one of {", ".join(SEVERITIES)}, got {min_severity!r}')
    limit = SEVERITIES.index(min_severity)
    asked = [rule for rule in all_rules().values() if SEVERITIES.index(rule.severity) <= limit and (rule.is_need or not needs_only)]
    findings = [finding for rule in asked for finding in findings_of(rule, case)]
    wanted = [finding for finding in findings if SEVERITIES.index(finding.severity) <= limit]
    return sorted(wanted, key=lambda finding: SEVERITIES.index(finding.severity))


def findings_of(rule: Rule, case: Case) -> Iterator[Finding]:
    """What one rule finds. A rule that fails is a finding itself: configs are stranger than rules foresee.

    It is a warning, except where a run is about to start and nobody knows whether what it needs is there.
    """
    undecided = rule.severity if rule.severity == 'info' or rule.is_need and case.starting else 'warning'
    problems = rule.check(case)
    while True:
        try:
            problem = next(problems)
        except StopIteration:
            return
        except Exception as error:  # whatever a strange config provokes
            yield Finding(
                rule.name,
                undecided,
                f'rule {rule.name} could not be decided: {type(error).__name__}: {error}',
                'correct what the error names, then ask again',
                rule.evidence,
            )
            return
        severity = problem.severity or rule.severity
        if SEVERITIES.index(severity) < SEVERITIES.index(rule.severity):
            raise ValueError(f'rule {rule.name} is announced as {rule.severity!r} and found {severity!r}; announce it as {severity!r}')
        yield Finding(rule.name, severity, problem.message, problem.mend, rule.evidence, problem.changes)
