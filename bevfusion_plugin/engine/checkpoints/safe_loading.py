"""What a checkpoint may hold besides tensors and plain values, for ``torch.load`` with ``weights_only``.

MMEngine's own checkpoints hold log histories, numpy scalars such as the best score, and the annealing function of a one-cycle
scheduler, so that torch >= 2.6, which checks by default, cannot resume them. Importing this package allow-lists what they hold
and no more: the check is on everywhere, and a checkpoint with anything else is refused.
"""

from __future__ import annotations

import codecs
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler
from mmengine.utils import digit_version

# Whether torch can be told what else is safe. Without that it would refuse MMEngine's own checkpoints, so that before 2.4 files
# are loaded unchecked, as MMEngine does.
REFUSES_CODE = digit_version(torch.__version__) >= digit_version('2.4.0')

# The attributes a checkpoint may look up, and on which class. Plain `getattr` would open every attribute of every class.
LOOKUPS = {HistoryBuffer: ('min', 'max', 'current', 'mean'), OneCycleParamScheduler: ('_annealing_cos', '_annealing_linear')}


def listed_attribute(owner: type, name: str) -> Callable:
    """Attribute ``name`` of ``owner``; it stands in for ``getattr`` while a checkpoint is read.

    Raises:
        AttributeError: If the pair is not in ``LOOKUPS``.
    """
    if name not in LOOKUPS.get(owner, ()):
        raise AttributeError(f'a checkpoint may not look up {name!r} of {owner!r}; load it with weights_only=False if you trust the file')
    return getattr(owner, name)


def checkpoint_globals() -> list[tuple[Any, str]]:
    """What MMEngine's checkpoints name, as (object, the name it is stored under).

    numpy is listed under the names of both its major versions, so that a checkpoint written with one loads with the other.
    """
    reconstruct: Any = np.zeros(0).__reduce__()[0]
    scalar: Any = np.float64(0).__reduce__()[0]
    dtypes = {type(np.dtype(kind)) for kind in '?bhilqBHILQefdgFDGUS'}
    return [
        (HistoryBuffer, 'mmengine.logging.history_buffer.HistoryBuffer'),
        (OneCycleParamScheduler, 'mmengine.optim.scheduler.param_scheduler.OneCycleParamScheduler'),
        (ConfigDict, 'mmengine.config.config.ConfigDict'),
        (listed_attribute, 'builtins.getattr'),
        (np.ndarray, 'numpy.ndarray'),
        (np.dtype, 'numpy.dtype'),
        *((dtype, f'{dtype.__module__}.{dtype.__qualname__}') for dtype in dtypes),
        *((function, f'numpy.{core}.multiarray.{function.__name__}') for function in (reconstruct, scalar) for core in ('core', '_core')),
    ]


@functools.cache
def under_its_name(thing: Any, name: str) -> Any:
    """``thing``, or what calls it, so that it is called ``name``: torch 2.4 and 2.5 ask it, later ones can be told."""
    if f'{thing.__module__}.{thing.__name__}' == name:
        return thing

    def renamed(*args: Any) -> Any:
        return thing(*args)

    renamed.__module__, renamed.__name__ = name.rsplit('.', 1)
    return renamed


def allow_checkpoint_types() -> None:
    """Tell ``torch.load`` of :func:`checkpoint_globals`; before 2.4 it cannot be told."""
    if digit_version(torch.__version__) >= digit_version('2.6.0'):
        torch.serialization.add_safe_globals([*checkpoint_globals()])
    elif REFUSES_CODE:  # 2.4 does not know by itself how bytes are stored
        pairs = [*checkpoint_globals(), (codecs.encode, '_codecs.encode')]
        torch.serialization.add_safe_globals([under_its_name(*pair) for pair in pairs])
