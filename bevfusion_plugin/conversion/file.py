"""Reading a checkpoint of another code base without running code from it, and writing one for MMEngine."""

from __future__ import annotations

import pickle
import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bevfusion_plugin.version import __version__

PLACES = ('state_dict', 'model_state', 'model')  # of MMEngine and mmcv, OpenPCDet, others


def read_state_dict(path: str | Path) -> OrderedDict[str, Tensor]:
    """The weights in a file, with ``_metadata`` if it has any; a leading ``module.`` of every key is taken off.

    Args:
        path: A file that ``torch.save`` wrote. It is loaded with ``weights_only=True``.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is no such file, needs more than tensors and plain values, or holds no weights.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'the checkpoint {path} does not exist')
    try:
        content = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # bytes that are no checkpoint can fail with anything
        named = re.search(r'GLOBAL ([\w.]+)', str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if named:
            raise ValueError(
                f'{path} cannot be loaded safely (weights_only=True): it names {named[1]}. If you trust the file, save its '
                'weights alone with torch.save(torch.load(path, weights_only=False)["state_dict"], other)'
            ) from None
        raise ValueError(
            f'{path} is no checkpoint: torch cannot read it ({type(error).__name__}); name a file that torch.save wrote, whole'
        ) from None
    weights = _weights(content)
    if not weights:
        seen = ', '.join(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
        raise ValueError(f'{path} holds no weights under {", ".join(PLACES)}; it has: {seen or "nothing"}')
    return _without_wrapper(weights)


def _weights(content: Any) -> Mapping[str, Tensor]:
    if not isinstance(content, Mapping):
        return {}
    place = next((name for name in PLACES if isinstance(content.get(name), Mapping)), None)
    weights = content if place is None else content[place]
    return weights if weights and all(isinstance(value, Tensor) for value in weights.values()) else {}


def _without_wrapper(weights: Mapping[str, Tensor]) -> OrderedDict[str, Tensor]:
    prefix = 'module.' if all(key.startswith('module.') for key in weights) else ''
    found: Any = OrderedDict((key[len(prefix) :], value) for key, value in weights.items())
    metadata = getattr(weights, '_metadata', None) or {}
    found._metadata = {key.removeprefix(prefix): value for key, value in metadata.items()}
    return found


def write_checkpoint(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any], **meta: Any) -> None:
    """Write a checkpoint for MMEngine's ``load_from``.

    Args:
        path: Where to; its folder is made if need be.
        tensors: State dict.
        metadata: Versions of the modules. mmdetection3d turns every sparse kernel whose module does not tell version 2.
        **meta: What to say about its origin.
    """
    state_dict: Any = OrderedDict(tensors)  # its versions are an attribute, as torch keeps them
    state_dict._metadata = OrderedDict(metadata)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    torch.save(dict(meta=dict(meta, bevfusion_plugin_version=__version__), state_dict=state_dict), path)
