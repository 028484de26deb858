"""A linear regression whose gradient noise is known, for one process or several."""

# No `from __future__ import annotations`: it may run under DistributedDataParallel hooks, see accumulating_ranks.
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bevfusion_plugin.engine.accumulation.optim_wrapper import AccumulativeAmpOptimWrapper
from bevfusion_plugin.engine.hooks.gradient_noise_scale_hook import NoiseScaleMeter
from bevfusion_plugin.plan.batch_plan import BatchPlan

WIDTH, SAMPLES, NOISE = 256, 64, 0.5  # wide, and a window near the noise scale: the estimate itself scatters by 3 %


class Regression(nn.Module):
    """Squared error of x w against x v + noise, x standard normal, w = 0; every entry of v is 1/4."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(WIDTH, dtype=torch.float64))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return (x @ self.weight - y).square().mean()


def analytic_noise_scale() -> float:
    """tr(Sigma) / |G|^2 by hand.

    A sample's gradient is 2 x (x d - e), d the distance to the solution, e the noise. Its mean is 2 d. For a standard normal
    x, E[x x' (x d)^2] = |d|^2 I + 2 d d', so Sigma = 4 ((|d|^2 + NOISE^2) I + d d').
    """
    distance_sq = WIDTH / 16
    return (WIDTH * (distance_sq + NOISE**2) + distance_sq) / distance_sq


def measured(rank: int, world_size: int, seed: int, counts: int, windows: int = 500, **settings) -> float:
    """Noise scale after ``windows`` updates with a learning rate of 0 and a clip that always bites."""
    model = Regression()
    wrapper = AccumulativeAmpOptimWrapper(
        torch.optim.SGD(model.parameters(), lr=0.0), counts, dict(max_norm=0.01), **{'dtype': 'float32', **settings}
    )
    wrapper.cast_dtype = torch.float32  # a loss scale, but no rounding to float16
    parallel = DistributedDataParallel(model) if world_size > 1 else model
    wrapper.initialize_count_status(parallel, 0, windows * counts)
    meter = NoiseScaleMeter(wrapper, BatchPlan(world_size, SAMPLES, counts), 0.995)
    generator = torch.Generator().manual_seed(1000 * seed + rank)
    for _ in range(windows * counts):
        x = torch.randn(SAMPLES, WIDTH, generator=generator).double()  # drawing float64 is ten times slower
        y = x.sum(1) / 4 + NOISE * torch.randn(SAMPLES, generator=generator)
        with wrapper.optim_context(parallel):
            loss = parallel(x, y)
        wrapper.update_params(loss)
        meter.after_micro_batch()
    return meter.noise_scale.value


def measured_by_ranks(rank: int, world_size: int, seeds: list[int], counts: int) -> list[float]:
    """:func:`measured` on this rank for each seed."""
    return [measured(rank, world_size, seed, counts) for seed in seeds]
