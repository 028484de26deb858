"""From findings to a config that overlays the examined one and has none of the errors a machine can mend."""

from __future__ import annotations

import copy
import math
import os
import pprint
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmengine.config import Config

from bevfusion_plugin.doctor.case import Case
from bevfusion_plugin.doctor.examination import examine, findings_of
from bevfusion_plugin.doctor.finding import RULES, Finding
from bevfusion_plugin.doctor.missing import Missing, missing_weights
from bevfusion_plugin.doctor.reading.config import to_plain

MAX_ROUNDS = 40
WIDTH = 120


class Unmendable(ValueError):
    """A change that would throw away a setting that nobody named: it has no place in this config."""


def mended(cfg: Config, findings: Sequence[Finding], folder: str | Path = '.') -> str:
    """Python text of a config that builds on ``cfg``'s file, and has what ``cfg`` has else and the changes of ``findings``.

    Where two findings change the same list (a pipeline, the schedulers), the later one wins; :func:`mend_all` examines anew after
    each change and so loses none. A new-style config (``read_base``) cannot be a ``_base_``, so the whole of it is written.

    Args:
        cfg: The config the findings are about; its file becomes ``_base_``.
        findings: What the doctor found; those without changes are left out.
        folder: Where the text will be written: ``_base_`` is relative to it.
    """
    changes = changes_of(findings)
    names = dict.fromkeys(finding.rule for finding in findings if finding.changes)
    text = f'"""Mended by tools/doctor.py: {", ".join(names) or "nothing"}."""\n'
    new = changed(cfg, changes).to_dict()
    if not is_new_style(cfg):
        text += f'_base_ = {os.path.relpath(cfg.filename, folder)!r}\n\n'
        base = Config.fromfile(cfg.filename, import_custom_modules=False, format_python_code=False)
        new = difference(base.to_dict(), new)
    return text + ''.join(f'{key} = {_literal(value)}\n' for key, value in new.items())


def mend_all(case: Case, min_severity: str = 'error') -> list[Finding]:
    """The findings whose changes, one after another, mend the config; each finding with the changes that helped it.

    The config is examined anew after each round of changes that do not touch each other. Changes that leave their finding as it
    was are taken back: what is not understood is left as it is written, and stays a finding.

    Args:
        case: The config and how it is to be trained; it is not changed.
        min_severity: The mildest severity to mend.
    """
    done: list[Finding] = []
    tried: list[Finding] = []
    now = case
    for _ in range(MAX_ROUNDS):
        found = examine(now, min_severity)
        chosen = _apart([finding for finding in found if _fits(now.cfg, finding) and not _was_done(finding, tried)])
        if not chosen:
            break
        tried += chosen
        after = changed_case(now, changes_of(chosen))
        useless = [finding for finding in chosen if finding in list(findings_of(RULES[finding.rule], after))]
        kept = [finding for finding in chosen if finding not in useless]
        now = changed_case(now, changes_of(kept)) if useless else after
        done += kept
    return done


def changes_of(findings: Sequence[Finding]) -> dict[str, Any]:
    """The changes of all ``findings``; of two for one place the later."""
    return {key: value for finding in findings for key, value in finding.changes.items()}


def change_lines(cfg: Config, findings: Sequence[Finding]) -> list[str]:
    """'key: old -> new' for every setting of ``cfg`` that ``findings`` change."""
    after = changed(cfg, changes_of(findings)).to_dict()
    return [f'{key}: {_shown(cfg.to_dict(), key)} -> {_shown(after, key)}' for key in changes_of(findings)]


def _shown(value: Any, key: str) -> str:
    for name in key.split('.'):
        if isinstance(value, (list, tuple)):
            value = value[int(name)] if name.isdigit() and int(name) < len(value) else None
        elif isinstance(value, dict) and name in value:
            value = value[name]
        else:
            return 'not set'
    text = repr(value)
    return text if len(text) <= WIDTH else f'{text[:WIDTH]}...'


def _fits(cfg: Config, finding: Finding) -> bool:
    """Whether ``finding`` has changes, and they all have a place in ``cfg``."""
    try:
        changed(cfg, finding.changes)
    except Unmendable:
        return False
    return bool(finding.changes)


def changed_case(case: Case, changes: Mapping[str, Any]) -> Case:
    """``case`` with another config."""
    return replace(case, cfg=changed(case.cfg, changes))


def _apart(findings: Sequence[Finding]) -> list[Finding]:
    """As many of the findings as change different places."""
    chosen: list[Finding] = []
    taken: list[str] = []
    for finding in findings:
        if not any(_overlap(key, other) for key in finding.changes for other in taken):
            chosen.append(finding)
            taken += finding.changes
    return chosen


def _overlap(a: str, b: str) -> bool:
    return f'{a}.'.startswith(f'{b}.') or f'{b}.'.startswith(f'{a}.')


def _was_done(finding: Finding, done: Sequence[Finding]) -> bool:
    return any((each.rule, each.changes) == (finding.rule, finding.changes) for each in done)


def changed(cfg: Config, changes: Mapping[str, Any]) -> Config:
    """A copy of ``cfg`` with the values at dotted keys replaced; a number in a key is a place in a list.

    Raises:
        Unmendable: If something stands where a key should lead into a dict.
    """
    plain = cfg.to_dict()
    for key, value in changes.items():
        _put(plain, key.split('.'), copy.deepcopy(to_plain(value)))
    return Config(plain, filename=cfg.filename, format_python_code=False)


def _put(target: Any, keys: Sequence[str], value: Any) -> None:
    """Write ``value`` at the path ``keys``; only what is empty there gives way to a dict."""
    key: Any = keys[0]
    if isinstance(target, list):
        if not key.isdigit() or int(key) >= len(target):
            raise Unmendable(f'a list of {len(target)} has no place {key!r}')
        key = int(key)
    if len(keys) == 1:
        target[key] = value
        return
    inner = target[key] if isinstance(target, list) else target.get(key)
    if isinstance(inner, tuple):
        inner = list(inner)
    if not isinstance(inner, (dict, list)) or not inner:
        if inner:
            raise Unmendable(f'{key} is {inner!r}, which {keys[1]} cannot be written into')
        inner = {}
    target[key] = inner
    _put(inner, keys[1:], value)


def is_new_style(cfg: Config) -> bool:
    """Whether the config's file imports what it builds on instead of naming it in ``_base_``."""
    return Config._is_lazy_import(cfg.filename)


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """What has to be merged into ``old`` to give ``new``: dicts key by key, everything else whole.

    ``_delete_`` is set where a dict replaces something that is none, or lost a key.
    """
    result: dict[str, Any] = {}
    for key, value in new.items():
        if key in old and _same(old[key], value):
            continue
        before = old.get(key)
        if not isinstance(value, dict):
            result[key] = value
        elif isinstance(before, dict) and before.keys() <= value.keys():
            result[key] = difference(before, value)
        else:
            result[key] = dict(value, _delete_=True) if key in old else dict(value)
    return result


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(_same, a, b))
    return type(a) is type(b) and (a == b or a != a and b != b)  # NaN is NaN


class _Unlimited(float):
    """A float that is no number or infinite, and prints as Python that gives it."""

    def __repr__(self) -> str:
        return f"float('{float(self)}')"


def _printable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _printable(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_printable, value))
    return _Unlimited(value) if isinstance(value, float) and not math.isfinite(value) else value


def _literal(value: Any) -> str:
    return pprint.pformat(_printable(value), width=WIDTH, sort_dicts=False)


def leave_out_weights(cfg: Config) -> list[Missing]:
    """Take weight files that do not exist out of ``cfg``, which is changed, and say which: those parts start from random weights."""
    left_out = list(missing_weights(cfg))
    cfg.merge_from_dict({missing.place.removesuffix('.checkpoint'): None for missing in left_out})
    return left_out
