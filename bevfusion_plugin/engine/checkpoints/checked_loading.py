"""Checkpoints that are read only if they are whole, run no code, and hold numbers."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import mmengine.runner.checkpoint as mmengine_loading
import torch
from torch import Tensor

from bevfusion_plugin.engine.checkpoints.safe_loading import REFUSES_CODE
from bevfusion_plugin.engine.checkpoints.whole_file import file_fault

TRAINING = dict(meta='epoch and iteration', state_dict='weights', optimizer='optimizer state', message_hub='log history')


class BrokenCheckpoint(ValueError):
    """A checkpoint that is not to be used; the message names the file and says what is wrong with it."""


def load_checked(path: str | Path, map_location: Any = None) -> dict[str, Any]:
    """The content of a checkpoint file.

    Raises:
        BrokenCheckpoint: If it is damaged, would run code, holds no weights, or NaN among them.
    """
    reason = file_fault(Path(path))
    if reason is None:
        content, reason = _read(path, map_location)
    if reason is None:
        reason = weights_fault(content)
    if reason is not None:
        raise BrokenCheckpoint(f'the checkpoint {path} {reason}')
    return content


def _read(path: str | Path, map_location: Any) -> tuple[Any, str | None]:
    """What ``torch.load`` makes of a file, and why it could not."""
    try:
        return torch.load(path, map_location=map_location, weights_only=REFUSES_CODE), None
    except torch.cuda.OutOfMemoryError:
        raise  # no fault of the file
    except Exception as error:  # bytes that are no checkpoint can fail with anything
        named = re.search(r'GLOBAL ([\w.]+)', str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if named:
            return None, (
                f'names {named[1]}, and loading it could run code: it was refused, and nothing of it was run. If you '
                'trust the file, save its weights alone with '
                'torch.save(torch.load(path, weights_only=False)["state_dict"], other)'
            )
        first_line = next(iter(str(error).splitlines()), '')
        return None, f'cannot be read: {type(error).__name__}: {first_line}'


def weights_fault(content: Any) -> str | None:
    """Why the content of a file gives no weights, to be read after its name; None if it does."""
    if not isinstance(content, Mapping):
        return f'holds a {type(content).__name__} and no weights by name'
    spoiled = [name for name, value in tensors_in(content) if _has_nan(value)]
    if spoiled:
        return f'holds NaN in {len(spoiled)} tensors, the first {spoiled[0]}; take one from before the training diverged'
    return None


def training_fault(content: Mapping[str, Any]) -> str | None:
    """Why a training cannot go on from this content as it was; None if it can."""
    lacking = [f'{key} ({what})' for key, what in TRAINING.items() if not isinstance(content.get(key), Mapping)]
    if not lacking and not all(isinstance(content['meta'].get(key), int) for key in ('epoch', 'iter')):
        lacking = ['meta.epoch and meta.iter']
    return f'lacks {", ".join(lacking)}: a training cannot go on from it, only begin with it' if lacking else None


def tensors_in(content: Any, name: str = '') -> Iterator[tuple[str, Tensor]]:
    """Every tensor below ``content``, with the keys that lead to it."""
    if isinstance(content, Tensor):
        yield name, content
    if isinstance(content, (list, tuple)):
        content = dict(enumerate(content))
    for key, value in content.items() if isinstance(content, Mapping) else ():
        yield from tensors_in(value, f'{name}.{key}' if name else str(key))


def _has_nan(value: Tensor) -> bool:
    return value.is_floating_point() and value.layout == torch.strided and bool(value.isnan().any())


def load_from_local(filename: str, map_location: Any = None) -> dict[str, Any]:
    """What MMEngine's loading of a file gives, checked.

    Raises:
        FileNotFoundError: If there is none.
        BrokenCheckpoint: As :func:`load_checked`.
    """
    path = Path(filename).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f'the checkpoint {filename} can not be found')
    return load_checked(path, map_location)


def check_mmengines_loading() -> None:
    """Let MMEngine load files by :func:`load_from_local`, and what it fetches from the web with ``weights_only`` too.

    MMEngine leaves ``weights_only`` out: code in a file runs with torch 2.4 and 2.5, and ``torch.hub`` turns the check of later
    versions off. Its loaders of the web all go through ``load_url``, which has no place to register another.
    """
    mmengine_loading.CheckpointLoader.register_scheme('', load_from_local, force=True)
    if REFUSES_CODE:
        stock = getattr(mmengine_loading.load_url, 'func', mmengine_loading.load_url)  # also where this ran before
        mmengine_loading.load_url = partial(stock, weights_only=True)
