"""``--samples-per-gpu``: another micro-batch with the same total batch, the largest that fits or one that the user names."""

from __future__ import annotations

from typing import Any

from mmengine.config import Config

from bevfusion_plugin.doctor.case import Case
from bevfusion_plugin.doctor.memory.needed import memory_function, smallest_gpu
from bevfusion_plugin.launch.own_ranks import visible_gpus
from bevfusion_plugin.plan.batch_plan import BatchPlan
from bevfusion_plugin.plan.checked_settings import positive_int
from bevfusion_plugin.plan.largest_samples import largest_samples


def set_samples_per_gpu(cfg: Config, asked: str, ranks: int) -> int:
    """Set samples a GPU, b, and keep the total batch by accumulation; b.

    Args:
        cfg: The whole config; it is changed. The total batch is its ``total_batch_size``, else what its numbers make on ``ranks``.
        asked: A number, or ``'auto'``: the largest that the memory model (tools/plan.py --gpu-memory) says fits into the smallest GPU of
            this machine and whose A is whole.
        ranks: Ranks of the run, W.

    Raises:
        ValueError: If no whole A keeps the total batch (the nearest plans are listed), or nothing fits, or there is no GPU to fit into.
    """
    wrapper: Any = cfg.get('optim_wrapper') or {}
    total = wrapper.get('total_batch_size') or _total_batch_size(cfg, ranks)
    if asked == 'auto':
        gpu_memory = smallest_gpu() if visible_gpus() else None
        if gpu_memory is None:
            raise ValueError("--samples-per-gpu auto asks what fits into this machine's GPUs, and torch finds none; give a number")
        samples = largest_samples(ranks, total, memory_function(cfg, ranks, gpu_memory), gpu_memory)
    else:
        samples = positive_int('--samples-per-gpu', int(asked) if asked.isdecimal() else asked, "give a number, or 'auto'")
    plan = BatchPlan.derive(ranks, total_batch_size=total, samples_per_rank=samples)
    cfg.train_dataloader.batch_size = samples
    if wrapper.get('accumulative_counts') != 'auto':
        wrapper.accumulative_counts = plan.accumulative_counts
    return samples


def _total_batch_size(cfg: Config, ranks: int) -> int:
    plan = Case(cfg, ranks).plan
    if plan is None:
        raise ValueError(
            '--samples-per-gpu keeps the total batch, and this config has no train_dataloader.batch_size or no optim_wrapper to '
            'work it out from'
        )
    return plan.total_batch_size
