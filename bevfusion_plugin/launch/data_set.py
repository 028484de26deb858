"""A split's data set as the Runner builds it, without a Runner."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope

from bevfusion_plugin.doctor.reading.config import mapping, short_name, to_plain
from bevfusion_plugin.launch.command_line import UsageError


def split_data_set(cfg: Config, split: str) -> Any:
    """The data set of ``<split>_dataloader``, wrappers and all.

    Args:
        cfg: The whole config.
        split: ``'train'``, ``'val'`` or ``'test'``.

    Raises:
        UsageError: If there is none, or it cannot be built.
    """
    wanted = mapping(mapping(cfg.get(f'{split}_dataloader')).get('dataset'))
    if not wanted:
        raise UsageError(f'{cfg.filename} has no data set in {split}_dataloader; name another split, or give it one')
    return built_data_set(cfg, wanted)


def built_data_set(cfg: Config, wanted: Mapping[str, Any]) -> Any:
    """The data set of the config ``wanted``, names read as the whole config ``cfg`` has them read.

    Raises:
        UsageError: If it cannot be built.
    """
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    try:
        return DATASETS.build(to_plain(wanted))
    except Exception as error:  # a data set's constructor, and its file, can fail with anything
        raise UsageError(f'the data set {short_name(wanted) or wanted} cannot be built: {type(error).__name__}: {error}') from error
