"""A Runner's optimizer wrappers, and how each reaches its total batch."""

from __future__ import annotations

from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from bevfusion_plugin.engine.accumulation.optim_wrapper import AccumulativeAmpOptimWrapper
from bevfusion_plugin.plan.batch_plan import BatchPlan


def wrappers_of(runner: Runner) -> dict[str, OptimWrapper]:
    """The Runner's optimizer wrappers by name; a single one is named ''."""
    wrapper = runner.optim_wrapper
    return dict(wrapper.items()) if isinstance(wrapper, OptimWrapperDict) else {'': wrapper}


def accumulating_wrappers(runner: Runner) -> list[AccumulativeAmpOptimWrapper]:
    """Those of the Runner's wrappers that are ours."""
    return [wrapper for wrapper in wrappers_of(runner).values() if isinstance(wrapper, AccumulativeAmpOptimWrapper)]


def samples_per_rank(dataloader: DataLoader) -> int | None:
    """Samples a micro-batch of ``dataloader`` holds, asking its batch sampler if there is one; None if neither tells."""
    return dataloader.batch_size or getattr(dataloader.batch_sampler, 'batch_size', None)


def batch_plan_of(runner: Runner, wrapper: OptimWrapper) -> BatchPlan:
    """How ``runner`` reaches the total batch of ``wrapper``, with base batch and rule from ``auto_scale_lr``.

    Raises:
        ValueError: If the samples a micro-batch are unknown, or the plan contradicts itself.
    """
    samples = samples_per_rank(runner.train_dataloader)
    if samples is None:
        raise ValueError(
            f'{type(runner.train_dataloader.batch_sampler).__name__} has no batch_size, so the total batch is '
            'unknown; give the batch sampler a batch_size attribute'
        )
    settings = runner.auto_scale_lr or {}
    is_auto = getattr(wrapper, 'is_auto', False)
    return BatchPlan.derive(
        runner.world_size,
        samples_per_rank=samples,
        total_batch_size=getattr(wrapper, 'total_batch_size', None),
        accumulative_counts=None if is_auto else wrapper._accumulative_counts,
        base_batch_size=settings.get('base_batch_size'),
        rule=settings.get('rule', 'linear'),
    )
