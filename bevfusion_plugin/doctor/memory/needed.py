"""What a training needs of a GPU's memory, and what the GPUs here have: one answer for the doctor and for ``--samples-per-gpu auto``."""

from __future__ import annotations

from collections.abc import Callable

import torch
from mmengine.config import Config

from bevfusion_plugin.doctor.reading.config import precision_of
from bevfusion_plugin.engine.accumulation.precision import DTYPES
from bevfusion_plugin.plan.memory_model import GIB


def memory_function(cfg: Config, ranks: int) -> Callable[[int], float]:
    """Function that gives the GiB a GPU needs for b samples, from one small forward pass on the CPU: tools/plan.py's.

    Raises:
        ValueError: If the model is no BEVFusion.
    """
    from bevfusion_plugin.doctor.memory.bevfusion_memory import memory_rows  # its model needs mmdet3d

    rows_of = memory_rows(cfg, ranks, DTYPES[precision_of(cfg)], with_cp=False, probe=False)
    return lambda samples: sum(rows_of(samples).values()) / GIB


def smallest_gpu() -> float | None:
    """GiB of the smallest GPU that torch sees; None if it sees none."""
    if not torch.cuda.is_available():
        return None
    return min(torch.cuda.get_device_properties(index).total_memory for index in range(torch.cuda.device_count())) / GIB
