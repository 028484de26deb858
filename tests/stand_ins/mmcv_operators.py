"""``mmcv.ops`` on our operators, also where compiled ones are installed."""

import importlib
import sys
from types import ModuleType

import bevfusion_plugin  # noqa: F401  before mmcv.ops
from bevfusion_plugin.ops.mmcv_ops.extension import OperatorFinder

MODULES = ('box_iou_rotated', 'focal_loss', 'info', 'iou3d', 'nms', 'points_in_boxes', 'scatter_points', 'voxelize')


def our_extension() -> ModuleType:
    """The module that ``import mmcv._ext`` gives where there is no compiled one."""
    module = ModuleType('mmcv._ext')
    OperatorFinder().exec_module(module)
    return module


def use_our_operators(monkeypatch) -> None:
    """Let the functions of ``mmcv.ops`` call our operators until the test ends."""
    importlib.import_module('mmcv.ops')
    for name in MODULES:
        monkeypatch.setattr(sys.modules[f'mmcv.ops.{name}'], 'ext_module', our_extension())
