"""The one reader of config files, for all tools."""
from __future__ import annotations

from pathlib import Path
from typing import Any

from mmengine.config import Config

from bevfusion_plugin.launch.command_line import UsageError

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


def load_config(path: str | Path, options: dict[str, Any] | None = None) -> Config:
    """The config of ``path`` with ``options`` merged in.

    Args:
        path: MM config file.
        options: What ``--cfg-options`` gave. ``data_root`` moves the whole data set: every path below the old folder, wherever
            it stands in the config, then lies below the new one. (MMEngine would change the variable alone, which nothing reads.)
            A loader with ``num_workers=0`` loses ``persistent_workers`` and ``prefetch_factor``.

    Raises:
        UsageError: If there is no such file, it cannot be read, or an option fits nothing in it.
    """
    if not Path(path).is_file():
        raise UsageError(f'there is no config {path}')
    try:
        cfg = Config.fromfile(str(path))
    except Exception as error:  # a config is Python and can fail with anything
        raise UsageError(f'{path} cannot be read: {type(error).__name__}: {error}') from error
    options = dict(options or {})
    old, new = cfg.get('data_root'), options.get('data_root')
    if old and new:
        moved = move_root(cfg._cfg_dict.to_dict(), str(old).rstrip('/'), str(new).rstrip('/'))
        cfg = Config(moved, filename=cfg.filename)
    try:
        if options:
            cfg.merge_from_dict(options)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(f'--cfg-options {" ".join(map(str, options))} do not fit {path}: {type(error).__name__}: {error}') from error
    drop_worker_settings(cfg)
    return cfg


def drop_worker_settings(cfg: Config) -> None:
    """Take what only workers can keep or prefetch out of the loaders that have none: PyTorch refuses it there."""
    for name in LOADERS:
        loader = cfg.get(name)
        if isinstance(loader, dict) and loader.get('num_workers') == 0:
            for key in ('persistent_workers', 'prefetch_factor'):
                loader.pop(key, None)


def move_root(value: Any, old: str, new: str) -> Any:
    """``value`` with every string that is ``old`` or lies below it rewritten to lie below ``new``."""
    if isinstance(value, dict):
        return {key: move_root(item, old, new) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(move_root(item, old, new) for item in value)
    if isinstance(value, str) and (value == old or value.startswith(f'{old}/')):
        return new + value[len(old):]
    return value
