"""The one reader of config files, for all tools."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config

from bevfusion_plugin.doctor.buildable import misspelt_keys
from bevfusion_plugin.launch.command_line import UsageError

PACKAGE = Path(__file__).parents[1]
SUFFIXES = ('.py', '.yaml', '.yml', '.json')
LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


def load_config(path: str | Path, options: dict[str, Any] | None = None) -> Config:
    """The config of ``path`` with ``options`` merged in.

    Args:
        path: MM config file, or the name of one of this package's.
        options: What ``--cfg-options`` gave. ``data_root`` moves the whole data set: every path below the old folder, wherever
            it stands in the config, then lies below the new one. (MMEngine would change the variable alone, which nothing reads.)
            A loader with ``num_workers=0`` loses ``persistent_workers`` and ``prefetch_factor``, and in every path ``~/`` becomes the
            user's home.

    Raises:
        UsageError: If there is no such file, it cannot be read, or an option fits nothing in it.
    """
    path = find_config(path)
    if path.suffix not in SUFFIXES:
        raise UsageError(f'{path} is no config: its name should end in {", ".join(SUFFIXES)}')
    try:
        cfg = Config.fromfile(str(path))
        list(strings(cfg._cfg_dict))  # what a new-style config imports is imported here
    except (Exception, SystemExit) as error:  # a config is Python and can fail with anything
        words = ' '.join(str(error).split())
        raise UsageError(f'{path} cannot be read: {type(error).__name__}: {words}; correct the file') from error
    options = dict(options or {})
    new_keys = {key.partition('.')[0] for key in options} - set(cfg)
    for key, meant in misspelt_keys(new_keys):
        raise UsageError(f'--cfg-options {key}: nothing in {path} is called so; did you mean {meant}?')
    old, new = cfg.get('data_root'), options.get('data_root')
    if old and new:
        moved = move_root(cfg._cfg_dict.to_dict(), str(old).rstrip('/'), str(new).rstrip('/'))
        cfg = Config(moved, filename=cfg.filename)
    try:
        if options:
            cfg.merge_from_dict(options)
    except (LookupError, TypeError, ValueError, AttributeError, AssertionError) as error:
        raise UsageError(f'--cfg-options {" ".join(map(str, options))} do not fit {path}: {type(error).__name__}: {error}') from error
    drop_worker_settings(cfg)
    if any(value.startswith('~/') for value in strings(cfg._cfg_dict)):
        cfg = Config(rewritten(cfg._cfg_dict.to_dict(), at_home), filename=cfg.filename)
    return cfg


def find_config(path: str | Path, package: Path = PACKAGE) -> Path:
    """``path`` if there is such a file, else the config of this package that it names: ``bevfusion_4x4090.py``, ``configs/...`` or not.

    Args:
        path: Of a file, or a name.
        package: Folder of the package: its configs lie in ``.mim`` where it is installed, else beside it in the checkout.

    Raises:
        UsageError: If there is neither.
    """
    path = Path(path)
    if path.is_file():
        return path
    folder = (package / '.mim' if (package / '.mim').is_dir() else package.parent) / 'configs'
    packaged = folder / path.name
    if path not in (Path(path.name), Path('configs') / path.name) or not packaged.is_file():
        names = ', '.join(sorted(file.name for file in folder.glob('*.py')))
        raise UsageError(f'there is no config {path}; the packaged ones are {names}')
    print(f'config {path}: {packaged}', file=sys.stderr)
    return packaged


def drop_worker_settings(cfg: Config) -> None:
    """Take what only workers can keep or prefetch out of the loaders that have none: PyTorch refuses it there."""
    for name in LOADERS:
        loader = cfg.get(name)
        if isinstance(loader, dict) and loader.get('num_workers') == 0:
            for key in ('persistent_workers', 'prefetch_factor'):
                loader.pop(key, None)


def move_root(value: Any, old: str, new: str) -> Any:
    """``value`` with every string that is ``old`` or lies below it rewritten to lie below ``new``."""
    return rewritten(value, lambda path: new + path[len(old) :] if path == old or path.startswith(f'{old}/') else path)


def at_home(path: str) -> str:
    """``path`` below the user's home if it begins with ``~/``: nobody below this package reads that."""
    return os.path.expanduser(path) if path.startswith('~/') else path


def rewritten(value: Any, change: Callable[[str], str]) -> Any:
    """``value`` with every string in it put through ``change``; keys stay."""
    if isinstance(value, dict):
        return {key: rewritten(item, change) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(rewritten(item, change) for item in value)
    return change(value) if isinstance(value, str) else value


def strings(value: Any) -> Iterator[str]:
    """Every string in ``value``."""
    if isinstance(value, (dict, list, tuple)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from strings(item)
    elif isinstance(value, str):
        yield value
