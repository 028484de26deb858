"""Rules about what the registries and the Runner take at all."""

from __future__ import annotations

from collections.abc import Iterator

from bevfusion_plugin.doctor.buildable import misspelt_keys, refusals
from bevfusion_plugin.doctor.case import Case
from bevfusion_plugin.doctor.finding import MMENGINE, Problem, rule
from bevfusion_plugin.doctor.missing import missing_packages
from bevfusion_plugin.doctor.reading.config import count, mapping, train_cfg


@rule('misspelt-key', 'error', f'{MMENGINE}/runner/runner.py')
def check_top_keys(case: Case) -> Iterator[Problem]:
    """No top-level key is one letter off a key that the Runner reads: MMEngine takes any and leaves it unread."""
    for key, meant in misspelt_keys(case.cfg):
        yield Problem(
            f'nothing reads the top-level key {key!r}; the Runner reads {meant!r}', f'write {meant}, or choose a name that is less like it'
        )


@rule('no-length', 'error', f'{MMENGINE}/runner/loops.py', is_need=True)
def check_length(case: Case) -> Iterator[Problem]:
    """``max_epochs`` and ``max_iters`` are whole numbers of at least 1."""
    for key in ('max_epochs', 'max_iters') if case.starting != 'test' else ():
        value = train_cfg(case.cfg).get(key)
        if value is not None and count(value) is None:
            yield Problem(f'train_cfg.{key} must be a whole number >= 1, got {value!r}', f'set train_cfg.{key}')


@rule('not-buildable', 'error', f'{MMENGINE}/registry/registry.py', is_need=True)
def check_buildable_parts(case: Case) -> Iterator[Problem]:
    """Every type is known, every argument is one that its class has, and the model and the optimizer can be built.

    Only a whole config is asked: one without a model is a part of another.
    """
    if case.quick and not case.starting or not mapping(case.cfg.get('model')) or list(missing_packages(case.cfg)):
        return
    for key, problem in refusals(case.cfg, case.starting):
        yield Problem(f'{key}: {problem}', f'correct {key}')
