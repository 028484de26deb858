"""The largest micro-batch that a GPU holds and that divides the total batch."""

from __future__ import annotations

from collections.abc import Callable

from bevfusion_plugin.plan.batch_plan import nearest_plans
from bevfusion_plugin.plan.checked_settings import positive_int
from bevfusion_plugin.plan.judgement import MEMORY_SHARE


def largest_samples(world_size: int, total_batch_size: int, memory_of: Callable[[int], float], gpu_memory: float) -> int:
    """The most samples a rank, b, of which W*b*A makes ``total_batch_size`` with a whole A, and that need no more than MEMORY_SHARE
    of a GPU.

    Args:
        world_size: Ranks, W.
        total_batch_size: Samples an update, W*b*A.
        memory_of: GiB a GPU needs for b samples.
        gpu_memory: GiB a GPU has.

    Raises:
        ValueError: If no b divides it (the nearest plans are listed), or one sample does not fit.
    """
    positive_int('world_size', world_size, 'it is the number of processes')
    positive_int('total_batch_size', total_batch_size, 'set optim_wrapper.total_batch_size')
    per_rank, rest = divmod(total_batch_size, world_size)
    if rest or not per_rank:
        plans = ', '.join(map(str, nearest_plans(world_size, total_batch_size, samples_per_rank=1)))
        raise ValueError(f'total_batch_size {total_batch_size} cannot be dealt to {world_size} ranks; nearest plans: {plans}')
    limit = MEMORY_SHARE * gpu_memory
    for samples in range(per_rank, 0, -1):
        if per_rank % samples == 0 and memory_of(samples) <= limit:
            return samples
    raise ValueError(
        f'one sample needs {memory_of(1):.1f} GiB, and {MEMORY_SHARE:.0%} of the GPU are {limit:.1f}; checkpoint activations, '
        'or take a smaller model'
    )
