"""For benchmarks against mmcv's compiled operators: an environment without them is refused."""

from __future__ import annotations

import sys

import bevfusion_plugin  # noqa: F401  so that an mmcv without operators can be told apart
from bevfusion_plugin.ops.mmcv_ops.extension import takes_our_operators


def need_compiled_operators() -> None:
    """Leave with status 2 where ``mmcv.ops`` computes with the operators of this package: they would race themselves."""
    if takes_our_operators():
        print(
            'this benchmark compares with mmcv\'s compiled operators, and the mmcv of this environment has none; '
            'run it in one with a compiled "mmcv>=2.0.0,<2.2"',
            file=sys.stderr,
        )
        sys.exit(2)
