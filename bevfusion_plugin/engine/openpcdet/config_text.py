"""An OpenPCDet YAML file as the text of an MM config file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from bevfusion_plugin.engine.openpcdet.optimization_block import conversion_notes, mm_config, read_settings

INDENT = 4 * ' '


def read_yaml(path: str | Path) -> tuple[dict[str, Any], list[str]]:
    """The OPTIMIZATION block of an OpenPCDet YAML, and notes on what the conversion leaves out.

    Raises:
        ValueError: If the file is no OpenPCDet model config, or its block cannot be converted; the message names the file.
    """
    try:
        content = yaml.safe_load(Path(path).read_text())
    except yaml.YAMLError as error:
        raise ValueError(f'{path} is no YAML: {error}') from error
    if not isinstance(content, dict) or 'OPTIMIZATION' not in content:
        raise ValueError(f'{path} has no OPTIMIZATION block; give the YAML of a model, not of a dataset')
    block = content['OPTIMIZATION']
    try:
        read_settings(block)
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from error
    notes = conversion_notes(block)
    if 'HOOK' in content:
        notes.append(f'HOOK is no part of the optimisation and is left out: {content["HOOK"]}')
    return block, notes


def config_text(path: str | Path, base: str | None = None, out: str | Path | None = None) -> str:
    """MM config that trains as the OpenPCDet YAML at ``path`` says, with a named variable for every value.

    Args:
        path: OpenPCDet model YAML.
        base: MM config that the text is laid over: a path, or ``package::path`` for one that a package ships. Its
            ``optim_wrapper`` and ``param_scheduler`` are replaced. None: the text has the optimisation alone.
        out: File that the text is meant for; a ``base`` path is written relative to it.

    Raises:
        ValueError: As :func:`read_yaml`.
    """
    block, notes = read_yaml(path)
    settings = read_settings(block)
    config = mm_config(block['OPTIMIZER'], {name: _named(name, value) for name, (value, _) in settings.items()})
    lines = [
        f'"""Optimisation of OpenPCDet\'s {Path(path).name}: {block["OPTIMIZER"]}, update for update.',
        '',
        *_usage(base, out),
        *notes,
        '"""',
    ]
    if base is not None:
        lines.append(f'_base_ = [{_base_path(base, out)!r}]')
        config['optim_wrapper'] = dict(_delete_=True, **config['optim_wrapper'])
        config['auto_scale_lr'] = dict(enable=False, base_batch_size=None)  # the base's is that of another LR
    lines += ['', *(f'{name} = {value!r}  # {origin}' for name, (value, origin) in settings.items()), '']
    lines += [f'{key} = {_code(value)}' for key, value in config.items()]
    return '\n'.join(lines) + '\n'


def _usage(base: str | None, out: str | Path | None) -> list[str]:
    if base is not None:
        return [f'python tools/train.py {out or "<this file>"}']
    return ["To train with it, name a model's config: _base_ = ['<config>.py'] as the first line."]


def _base_path(base: str, out: str | Path | None) -> str:
    if out is None or '::' in base:
        return base
    return Path(os.path.relpath(base, Path(out).parent)).as_posix()


def _named(name: str, value: Any) -> Any:
    """``value`` itself, but written as the variable ``name``."""
    return type('Named', (type(value),), {'__repr__': lambda self: name})(value)


def _code(value: Any, indent: str = '') -> str:
    """Python source of nested dicts and lists, one key a line."""
    inner = indent + INDENT
    if isinstance(value, dict):
        body = ''.join(f'{inner}{key}={_code(item, inner)},\n' for key, item in value.items())
        return f'dict(\n{body}{indent})'
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return f'[{", ".join(_code(item, indent) for item in value)}]'
    return repr(value)
