"""Loading MMEngine's checkpoints with ``weights_only=True``, which refuses classes it was not told of.

It is the default since torch 2.6, and what the doctor and the tools ask for. MMEngine 0.10.7 loads without
``weights_only=False``, so its own checkpoints (log histories, numpy scalars such as the best score, the annealing function
of a one-cycle scheduler) cannot be resumed. Importing this package allow-lists what they hold and no more: the check stays
on, and a checkpoint with anything else is still refused.
"""
from __future__ import annotations

import codecs
import functools
from typing import Any, Callable

import numpy as np
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler
from mmengine.utils import digit_version

# The attributes a checkpoint may look up, and on which class. Plain `getattr` would open every attribute of every class.
LOOKUPS = {HistoryBuffer: ('min', 'max', 'current', 'mean'),
           OneCycleParamScheduler: ('_annealing_cos', '_annealing_linear')}

# torch 2.4 is the first that can be told of classes. Below it only weights_only=False loads what MMEngine stores.
CAN_BE_TOLD = digit_version(torch.__version__) >= digit_version('2.4.0')


def listed_attribute(owner: type, name: str) -> Callable:
    """Attribute ``name`` of ``owner``; it stands in for ``getattr`` while a checkpoint is read.

    Raises:
        AttributeError: If the pair is not in ``LOOKUPS``.
    """
    if name not in LOOKUPS.get(owner, ()):
        raise AttributeError(f'a checkpoint may not look up {name!r} of {owner!r}; load it with weights_only=False if you '
                             'trust the file')
    return getattr(owner, name)


def checkpoint_globals() -> list[tuple[Any, str]]:
    """What MMEngine's checkpoints name, as (object, the name it is stored under).

    numpy is listed under the names of both its major versions, so that a checkpoint written with one loads with the other.
    """
    reconstruct, scalar = np.zeros(0).__reduce__()[0], np.float64(0).__reduce__()[0]
    dtypes = {type(np.dtype(kind)) for kind in '?bhilqBHILQefdgFDGUS'}
    return [
        (HistoryBuffer, 'mmengine.logging.history_buffer.HistoryBuffer'),
        (OneCycleParamScheduler, 'mmengine.optim.scheduler.param_scheduler.OneCycleParamScheduler'),
        (ConfigDict, 'mmengine.config.config.ConfigDict'),
        (listed_attribute, 'builtins.getattr'),
        (np.ndarray, 'numpy.ndarray'),
        (np.dtype, 'numpy.dtype'),
        *((dtype, f'{dtype.__module__}.{dtype.__qualname__}') for dtype in dtypes),
        *((function, f'numpy.{core}.multiarray.{function.__name__}')
          for function in (reconstruct, scalar) for core in ('core', '_core')),
    ]


@functools.cache
def under_name(item: Callable, name: str) -> Callable:
    """A callable that says it is called ``name`` and does what ``item`` does: ``item`` itself, if that is its name."""
    module, _, attribute = name.rpartition('.')
    if (item.__module__, item.__name__) == (module, attribute):
        return item

    def stand_in(*args: Any) -> Any:
        return item(*args)

    stand_in.__module__, stand_in.__name__ = module, attribute
    return stand_in


def allow_checkpoint_types() -> None:
    """Tell ``torch.load`` of :func:`checkpoint_globals`."""
    if digit_version(torch.__version__) >= digit_version('2.6.0'):
        torch.serialization.add_safe_globals(checkpoint_globals())
    elif CAN_BE_TOLD:  # 2.4 and 2.5 take no names beside the objects; 2.4 does not know by itself how bytes are stored
        items = [*checkpoint_globals(), (codecs.encode, '_codecs.encode')]
        torch.serialization.add_safe_globals([under_name(item, name) for item, name in items])
