"""The tools as modules: they are scripts beside the package, not part of it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

TOOLS = Path(__file__).parents[2] / 'tools'


def load_tool(name: str) -> ModuleType:
    """``tools/<name>.py``, loaded anew, under a name that hides no module."""
    spec = importlib.util.spec_from_file_location(f'{name}_tool', TOOLS / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
