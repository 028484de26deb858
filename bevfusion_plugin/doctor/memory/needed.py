"""What a training needs of a GPU's memory, and what the GPUs here have: one answer for the doctor and for ``--samples-per-gpu auto``."""

from __future__ import annotations

from collections.abc import Callable

import torch
from mmengine.config import Config

from bevfusion_plugin.doctor.memory.measured import known_rows
from bevfusion_plugin.doctor.reading.config import precision_of
from bevfusion_plugin.engine.accumulation.precision import DTYPES
from bevfusion_plugin.plan.memory_model import GIB


def memory_function(cfg: Config, ranks: int, gpu_memory: float) -> Callable[[int], float]:
    """Function that gives the GiB a GPU needs for b samples, as tools/plan.py does: as measured, else from one small forward pass on the CPU.

    Args:
        cfg: The whole config.
        ranks: Ranks of the run.
        gpu_memory: GiB of the GPU.

    Raises:
        ValueError: If the model is no BEVFusion.
    """
    from bevfusion_plugin.doctor.memory.bevfusion_memory import memory_rows  # its model needs mmdet3d

    dtype = DTYPES[precision_of(cfg)]
    rows_of = memory_rows(cfg, ranks, dtype, with_cp=False, probe=False)
    rows_of = known_rows(rows_of, cfg, dtype, cfg.model.get('with_cp') is True, gpu_memory)
    return lambda samples: sum(rows_of(samples).values()) / GIB


def smallest_gpu() -> float | None:
    """GiB of the smallest GPU that torch sees; None if it sees none."""
    if not torch.cuda.is_available():
        return None
    return min(torch.cuda.get_device_properties(index).total_memory for index in range(torch.cuda.device_count())) / GIB
