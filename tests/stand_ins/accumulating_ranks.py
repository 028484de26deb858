"""What each rank does in the tests of accumulation under DistributedDataParallel."""

# No `from __future__ import annotations`: DistributedDataParallel checks the annotations of a communication hook.
import math
from typing import Any
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.nn.parallel import DistributedDataParallel
from toy_training import FEATURES, ToyModel, batch_norm_net, layer_norm_net, linear_net

from bevfusion_plugin.engine.accumulation.optim_wrapper import AccumulativeAmpOptimWrapper
from bevfusion_plugin.models.checkpointing import start_checkpointing

Batch = tuple[Tensor, Tensor]


def data(sizes: list[int]) -> list[Batch]:
    """Seeded micro-batches, the same on every rank and in every process."""
    generator = torch.Generator().manual_seed(5)
    return [tuple(torch.randn(size, width, generator=generator, dtype=torch.float64) for width in (FEATURES, 1)) for size in sizes]


class CountedModel(ToyModel):
    """A loss divided by a count of the rank's own micro-batch, as detection heads divide by their positives."""

    def forward(self, x: Tensor, y: Tensor, mode: str = 'loss') -> dict[str, Tensor]:
        positives = (y > 0).sum().clamp(min=1)
        return dict(loss_fit=(self.net(x) - y).square().sum() / positives)


class BranchedModel(ToyModel):
    """A branch that only some samples reach."""

    def __init__(self) -> None:
        super().__init__(linear_net)
        self.branch = nn.Linear(FEATURES, 1).double()
        nn.init.constant_(self.branch.weight, 0.5)
        nn.init.constant_(self.branch.bias, 0.0)

    def forward(self, x: Tensor, y: Tensor, mode: str = 'loss') -> dict[str, Tensor]:
        predicted = self.net(x) + (self.branch(x) if x[0, 0] > 0 else 0)
        return dict(loss_fit=(predicted - y).square().mean())


class Trained:
    """A model in DistributedDataParallel and its wrapper; what it saw of gradients and synchronisations."""

    def __init__(self, model: nn.Module, find_unused_parameters: bool = False, static_graph: bool = False, **settings: Any):
        self.model = model
        self.parallel = DistributedDataParallel(
            model, find_unused_parameters=find_unused_parameters, broadcast_buffers=False, static_graph=static_graph
        )
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        self.wrapper = AccumulativeAmpOptimWrapper(optimizer, **{'dtype': 'float32', **settings})
        self.gradients: list[Tensor] = []
        self.rounds = 0
        optimizer.register_step_pre_hook(lambda *args: self.gradients.append(self._gradient()))
        self.parallel.register_comm_hook(None, self._count)

    def _gradient(self) -> Tensor:
        return torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in self.model.parameters()])

    def _count(self, state: None, bucket: torch.distributed.GradBucket) -> torch.futures.Future[Tensor]:
        self.rounds += 1
        return allreduce_hook(state, bucket)

    def run(self, batches: list[Batch]) -> dict[str, Any]:
        """Train on ``batches``."""
        self.wrapper.initialize_count_status(self.parallel, 0, len(batches))
        for x, y in batches:
            with self.wrapper.optim_context(self.parallel):
                losses = self.parallel(x, y, mode='loss')
            self.wrapper.update_params(losses['loss_fit'])
        return dict(
            gradients=self.gradients,
            rounds=self.rounds,
            updates=self.wrapper.updates,
            skipped=self.wrapper.skipped_updates,
            norm=self.wrapper.grad_norm,
        )


def share(batches: list[Batch], rank: int, world_size: int) -> list[Batch]:
    """This rank's micro-batches, so that window k holds the same ones for every number of ranks."""
    return batches[rank::world_size]


def equal_grouping(rank: int, world_size: int, total: int) -> dict[str, Any]:
    """Two windows of ``total`` micro-batches over all ranks, of a model whose loss and BatchNorm depend on the grouping."""
    trained = Trained(CountedModel(batch_norm_net), accumulative_counts=total // world_size)
    return trained.run(share(data([4] * total * 2), rank, world_size))


def window_gradients_on(device: str, rank: int = 0, world_size: int = 1) -> list[Tensor]:
    """Gradients of two windows of four micro-batches over all ranks, on this kind of device."""
    model = CountedModel(batch_norm_net).to(device)
    parallel = model
    if world_size > 1:
        parallel = DistributedDataParallel(model, broadcast_buffers=False, device_ids=[rank] if device == 'cuda' else None)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    gradients: list[Tensor] = []
    optimizer.register_step_pre_hook(
        lambda *_: gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]).cpu())
    )
    wrapper = AccumulativeAmpOptimWrapper(optimizer, accumulative_counts=4 // world_size, dtype='float32')
    batches = share(data([4] * 8), rank, world_size)
    wrapper.initialize_count_status(parallel, 0, len(batches))
    for x, y in batches:
        with wrapper.optim_context(parallel):
            losses = parallel(x.to(device), y.to(device), mode='loss')
        wrapper.update_params(losses['loss_fit'])
    return gradients


def equal_grouping_on(rank: int, world_size: int, device: str) -> list[Tensor]:
    """:func:`window_gradients_on` as one of several ranks does it."""
    return window_gradients_on(device, rank, world_size)


def checkpointed_or_not(rank: int, world_size: int) -> dict[str, dict[str, Any]]:
    """Two windows of two micro-batches of a model with BatchNorm, plain and with activation checkpointing."""
    results = {}
    for way in ('plain', 'checkpointed'):
        model = CountedModel(batch_norm_net)
        if way == 'checkpointed':
            start_checkpointing(model.net)
        runs: list[int] = []
        model.net[0].register_forward_hook(lambda *_, runs=runs: runs.append(1))
        trained = Trained(model, accumulative_counts=2)
        results[way] = trained.run(share(data([4] * 8), rank, world_size))
        results[way].update(runs=len(runs), buffers=list(model.buffers()))
    return results


def two_ranks(rank: int, world_size: int) -> dict[str, dict[str, Any]]:
    """All that is tested with two ranks, so that the processes start once."""
    cases: dict[str, Callable[[], dict[str, Any]]] = dict(
        grouping=lambda: equal_grouping(rank, world_size, 4),
        rounds=lambda: Trained(ToyModel(), accumulative_counts=4).run(share(data([2] * 24), rank, 2)),
        static=lambda: Trained(ToyModel(), static_graph=True, accumulative_counts=4).run(share(data([2] * 24), rank, 2)),
        unused=lambda: Trained(BranchedModel(), True, accumulative_counts=3).run(share(branched_data(), rank, 2)),
        uneven=lambda: Trained(ToyModel(layer_norm_net), accumulative_counts=2, weight_by='samples').run(
            share(data([8, 8, 3, 5]), rank, 2)
        ),
        overflow=lambda: Trained(
            ToyModel(linear_net, torch.float32), accumulative_counts=2, dtype='float16', loss_scale=dict(init_scale=4.0)
        ).run(overflowing(rank)),
        nan=lambda: nan_on_one(rank),
        sharded=sharded,
    )
    return {name: case() for name, case in cases.items()}


UNEVEN = [8, 8, 5, 3, 6, 1, 2, 8]  # samples of a window's micro-batches: four ranks, two each


def four_ranks(rank: int, world_size: int) -> dict[str, dict[str, Any]]:
    """All that is tested with four ranks."""
    cases: dict[str, Callable[[], dict[str, Any]]] = dict(
        grouping=lambda: equal_grouping(rank, world_size, 4),
        uneven=lambda: Trained(ToyModel(layer_norm_net), accumulative_counts=2, weight_by='samples').run(
            share(data(UNEVEN), rank, world_size)
        ),
        unused=lambda: Trained(BranchedModel(), True, accumulative_counts=2).run(share((branched_data() * 2)[:8], rank, world_size)),
    )
    return {name: case() for name, case in cases.items()}


def branched_data() -> list[Batch]:
    """Six micro-batches; only the third (rank 0, in the middle of a window of three) reaches the branch."""
    batches = data([2] * 6)
    for index, (x, _) in enumerate(batches):
        x[0, 0] = x[0, 0].abs() * (1 if index == 2 else -1)
    return batches


def overflowing(rank: int) -> list[Batch]:
    """Two windows of two; rank 1 overflows in the first micro-batch of the first."""
    batches = [(torch.ones(2, FEATURES), torch.ones(2, 1)) for _ in range(4)]
    if rank == 1:
        batches[0][0][0, 0] = math.inf
    return batches


def nan_on_one(rank: int) -> dict[str, Any]:
    """Rank 0's loss is NaN; what each rank raises."""
    trained = Trained(ToyModel(linear_net), accumulative_counts=2, max_bad_windows=2)
    batches = data([2] * 8)
    if rank == 0:
        for x, _ in batches:
            x.fill_(math.nan)
    try:
        trained.run(batches)
    except FloatingPointError as error:
        return dict(error=str(error), skipped=trained.wrapper.skipped_updates)
    return dict(error=None)


def sharded() -> dict[str, Any]:
    """What a model under FullyShardedDataParallel raises."""
    parallel = FullyShardedDataParallel(ToyModel(layer_norm_net), device_id=torch.device('cpu'), use_orig_params=True)
    wrapper = AccumulativeAmpOptimWrapper(torch.optim.SGD(parallel.parameters(), lr=0.1), 2)
    try:
        wrapper.initialize_count_status(parallel, 0, 4)
    except ValueError as error:
        return dict(error=str(error))
    return dict(error=None)
