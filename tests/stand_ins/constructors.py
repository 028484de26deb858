"""Every registered class of the package with settings that work, and what to do with one three times: for odd arguments.

``CASES[name]`` has the settings as a user writes them, ``build(settings)`` and ``use(built, folder)``. :func:`places` lists what can be
replaced in the settings, :func:`replaced` does it, :func:`outcome` says what came of it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ODD = [
    None,
    True,
    False,
    'False',
    '3',
    'x',
    -1,
    0,
    1,
    7,
    2.5,
    1e-9,
    -0.5,
    -0.0,
    math.nan,
    math.inf,
    [],
    [0, 0],
    [2, 1],
    [math.nan] * 6,
    ['a', 'b'],
    {},
    10**400,
]
# Configs of parts that others made, or that have a case of their own: replaced as a whole only.
FOREIGN = {
    'decoder_layer',
    'loss_cls',
    'loss_bbox',
    'loss_heatmap',
    'bbox_coder',
    'assigner',
    'norm_cfg',
    'conv_cfg',
    'act_cfg',
    'upsample_cfg',
    'cls_cost',
    'reg_cost',
    'iou_cost',
    'iou_calculator',
    'pts_voxel_encoder',
    'pts_middle_encoder',
    'pts_backbone',
    'pts_neck',
    'bbox_head',
    'dataset',
    'prepare',
}
NOT_OURS = {'type', 'pad_size_divisor', 'inplace', 'act_cfg', 'num_fcs', 'requires_grad'}  # mmcv's and mmdet3d's to check


@dataclass(frozen=True)
class Case:
    settings: dict[str, Any]
    build: Callable[[dict], Any]
    use: Callable[[Any, Path], None]


def places(settings: dict, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Where a value stands, as keys from the top; of nested dicts the inner ones, too."""
    for key, value in settings.items():
        if key not in NOT_OURS:
            yield (*path, key)
            if isinstance(value, dict) and key not in FOREIGN:
                yield from places(value, (*path, key))


def replaced(settings: dict, path: tuple[str, ...], value: Any) -> dict:
    """A copy of ``settings`` with ``value`` at ``path``."""
    settings = copy.deepcopy(settings)
    inner = settings
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = copy.deepcopy(value)
    return settings


def is_named(error: Exception, path: tuple[str, ...], value: Any) -> bool:
    """Whether the message names argument and value."""
    text = str(error)
    return path[-1] in text and (value is None or repr(value) in text or str(value) in text)


def outcome(case: Case, path: tuple[str, ...], value: Any, folder: Path) -> tuple[str, Exception | None]:
    """``'works'``, ``'refused by name'``, ``'unnamed'``, ``'late'`` (fails when it is used), and the error."""
    try:
        built = case.build(replaced(case.settings, path, value))
    except Exception as error:
        is_refusal = isinstance(error, (ValueError, TypeError)) and is_named(error, path, value)
        return ('refused by name' if is_refusal else 'unnamed'), error
    try:
        case.use(built, folder)
    except Exception as error:  # what only the run tells, such as its length
        is_refusal = isinstance(error, (ValueError, TypeError, AssertionError)) and is_named(error, path, value)
        return ('refused by name' if is_refusal else 'late'), error
    return 'works', None
