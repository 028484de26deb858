"""Where mmcv has no compiled extension, ``import mmcv._ext`` finds our operators.

Everything in ``mmcv.ops`` calls the extension module ``mmcv._ext``. ``mmcv-lite`` is the same package without it, and
``import mmcv.ops``, which mmdet and mmdet3d do at their first line, fails there. The finder stands last in
``sys.meta_path``: a compiled extension is found before it, and stays in use.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import NoReturn

EXTENSION = 'mmcv._ext'
ORIGIN = 'bevfusion_plugin.ops.mmcv_ops'


class OperatorFinder(MetaPathFinder, Loader):
    """Finds and fills the module ``mmcv._ext``, and no other.

    Its spec is a whole one: MMEngine's ``mmcv_full_available`` and mmcv's ``check_ops_exist`` read it.
    """

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Spec of ``mmcv._ext``, None for every other name."""
        return ModuleSpec(name, self, origin=ORIGIN) if name == EXTENSION else None

    def exec_module(self, module: ModuleType) -> None:
        """Put our operators into the module; every other name in it is an operator that says it is missing."""
        import torch

        from bevfusion_plugin.ops.mmcv_ops import operators

        for name in operators.__all__:  # as compiled ones they leave no trace in autograd's graph
            setattr(module, name, torch.no_grad()(getattr(operators, name)))
        setattr(module, '__getattr__', missing_operator)


def missing_operator(name: str) -> Callable[..., NoReturn]:
    """A stand-in for the operator ``name``, which there is compiled only.

    Raises:
        AttributeError: For a name that Python itself asks modules for.
    """
    if name.startswith('__'):
        raise AttributeError(name)

    def operator(*args, **kwargs) -> NoReturn:
        raise RuntimeError(
            f'mmcv has no compiled operators here, and bevfusion_plugin has no torch version of {name}; for a model that '
            'needs it put the compiled mmcv in place of mmcv-lite: pip uninstall mmcv-lite, then build or install '
            '"mmcv>=2.0.0,<2.2" for your torch and CUDA (mmcv.readthedocs.io, "Install mmcv")'
        )

    operator.__name__ = name
    return operator


def provide_operators() -> None:
    """Let ``mmcv.ops`` be imported where mmcv was installed without its compiled operators. Imports nothing by itself."""
    if not any(isinstance(finder, OperatorFinder) for finder in sys.meta_path):
        sys.meta_path.append(OperatorFinder())


def takes_our_operators() -> bool:
    """Whether ``mmcv.ops``, if it is imported, computes with the operators of this package.

    Raises:
        ModuleNotFoundError: If there is no mmcv.
    """
    import importlib.util

    spec = importlib.util.find_spec(EXTENSION)
    return spec is not None and spec.origin == ORIGIN
