"""How many samples an update sees, and what follows from it.

Letters: W ranks (GPUs), b samples a rank a micro-batch, A micro-batches a window (``accumulative_counts``), L micro-batches
an epoch and rank. One update sees the total batch W*b*A.
"""

from __future__ import annotations

from dataclasses import dataclass

from bevfusion_plugin.plan.checked_settings import one_of, positive_int

RULES = {'linear': 1.0, 'sqrt': 0.5, 'none': 0.0}
FLUSHES = ('epoch', 'train')


def count_updates(batches: int, accumulative_counts: int, batches_per_epoch: int | None = None, flush: str = 'train') -> int:
    """Updates made by ``batches`` micro-batches, a short last window counted.

    Args:
        batches: Micro-batches a rank from the start of training.
        accumulative_counts: Micro-batches a window, A.
        batches_per_epoch: Micro-batches an epoch, L; needed by ``flush='epoch'`` only.
        flush: ``'epoch'``: no window straddles an epoch, E epochs give E * ceil(L / A). ``'train'``: only the last window
            of the training may be short, ceil(E * L / A).

    Raises:
        ValueError: On an unknown flush, a count that is no positive int, or a missing ``batches_per_epoch``.
    """
    positive_int('accumulative_counts', accumulative_counts, 'set optim_wrapper.accumulative_counts')
    if one_of('flush', flush, FLUSHES) == 'train':
        return -(-batches // accumulative_counts)
    length = positive_int('batches_per_epoch', batches_per_epoch, "flush='epoch' needs the length of the dataloader")
    epochs, rest = divmod(batches, length)
    return epochs * -(-length // accumulative_counts) - (-rest // accumulative_counts)


@dataclass(frozen=True)
class BatchPlan:
    """One way to reach a total batch: W ranks x b samples x A micro-batches.

    Attributes:
        world_size: Ranks, W.
        samples_per_rank: Samples a rank a micro-batch, b: the dataloader's ``batch_size``.
        accumulative_counts: Micro-batches a window, A.
        base_batch_size: Total batch the learning rate was tuned for; None: unknown, and there is no LR ratio.
        rule: How the LR follows the total batch: ``'linear'``, ``'sqrt'`` or ``'none'``.

    Raises:
        ValueError: If a count is no positive int or the rule is unknown.

    Source:
        Linear rule: Goyal et al. 2017, arXiv 1706.02677, section 2.1. Square root (Adam): Malladi et al. 2022, arXiv
        2205.10287; their full rule moves the betas too, which this one does not.
    """

    world_size: int
    samples_per_rank: int
    accumulative_counts: int = 1
    base_batch_size: int | None = None
    rule: str = 'linear'

    def __post_init__(self) -> None:
        positive_int('world_size', self.world_size, 'it is the number of processes')
        positive_int('samples_per_rank', self.samples_per_rank, 'set train_dataloader.batch_size')
        positive_int('accumulative_counts', self.accumulative_counts, 'set optim_wrapper.accumulative_counts')
        if self.base_batch_size is not None:
            positive_int(
                'base_batch_size', self.base_batch_size, 'set auto_scale_lr.base_batch_size to the total batch the LR was tuned for'
            )
        one_of('rule', self.rule, tuple(RULES))

    @classmethod
    def derive(
        cls,
        world_size: int,
        *,
        total_batch_size: int | None = None,
        samples_per_rank: int | None = None,
        accumulative_counts: int | None = None,
        base_batch_size: int | None = None,
        rule: str = 'linear',
    ) -> BatchPlan:
        """The plan that two of {total batch, b, A} determine; all three must agree.

        Raises:
            ValueError: If fewer than two are given, if the third is no whole number (the nearest plans are listed), or
                if the three contradict each other (the arithmetic is shown).
        """
        given = dict(total_batch_size=total_batch_size, samples_per_rank=samples_per_rank, accumulative_counts=accumulative_counts)
        known = {name: positive_int(name, value, 'leave it out to have it derived') for name, value in given.items() if value is not None}
        if len(known) < 2:
            raise ValueError(f'two of total_batch_size, samples_per_rank and accumulative_counts are needed, got {known}')
        positive_int('world_size', world_size, 'it is the number of processes')
        b, A = samples_per_rank, accumulative_counts
        if b is None or A is None:
            b, A = _whole_factors(world_size, known['total_batch_size'], b, A)
        plan = cls(world_size, b, A, base_batch_size, rule)
        if total_batch_size not in (None, plan.total_batch_size):
            raise ValueError(f'{plan} is not the total_batch_size of {total_batch_size}; leave one of the three out')
        return plan

    def __str__(self) -> str:
        return f'{self.world_size} x {self.samples_per_rank} x A{self.accumulative_counts} = {self.total_batch_size}'

    @property
    def total_batch_size(self) -> int:
        """Samples an update sees, W*b*A."""
        return self.world_size * self.samples_per_rank * self.accumulative_counts

    @property
    def lr_ratio(self) -> float:
        """(total batch / base batch) to the power 1 (linear), 0.5 (sqrt) or 0 (none).

        Raises:
            ValueError: If the base batch is unknown.
        """
        if self.base_batch_size is None:
            raise ValueError('base_batch_size is missing; set auto_scale_lr.base_batch_size to the total batch the LR was tuned for')
        return (self.total_batch_size / self.base_batch_size) ** RULES[self.rule]

    def batches_per_epoch(self, samples: int, drop_last: bool = False) -> int:
        """Micro-batches a rank sees an epoch, L, of a data set of ``samples`` that is padded to W equal shares.

        Example: CBGS nuScenes, 123,580 samples on 4 ranks: 30,895 a rank, 15,448 micro-batches of 2.
        """
        share = -(-samples // self.world_size)
        return share // self.samples_per_rank if drop_last else -(-share // self.samples_per_rank)

    def updates_per_epoch(self, batches_per_epoch: int) -> int:
        """Updates an epoch of L micro-batches takes if no window straddles its end, ceil(L / A)."""
        return count_updates(batches_per_epoch, self.accumulative_counts)

    def total_updates(self, epochs: int, batches_per_epoch: int, flush: str = 'epoch') -> int:
        """Updates of the whole training; see :func:`count_updates`."""
        return count_updates(epochs * batches_per_epoch, self.accumulative_counts, batches_per_epoch, flush)

    def partial_window(self, batches_per_epoch: int) -> int:
        """Micro-batches in the short last window of an epoch; 0 if all windows are full."""
        return batches_per_epoch % self.accumulative_counts


def _whole_factors(world_size: int, total: int, b: int | None, A: int | None) -> tuple[int, int]:
    """(b, A) with W*b*A = total, of which one is known."""
    known = next(factor for factor in (b, A) if factor is not None)
    missing, rest = divmod(total, world_size * known)
    if missing < 1 or rest:
        name = 'accumulative_counts' if A is None else 'samples_per_rank'
        plans = ', '.join(map(str, nearest_plans(world_size, total, b, A)))
        raise ValueError(
            f'no whole {name} gives total_batch_size {total}: {total} / ({world_size} x {known}) = '
            f'{total / (world_size * known):.4g}; nearest plans: {plans}'
        )
    return (known, missing) if A is None else (missing, known)


def nearest_plans(
    world_size: int, total: int, samples_per_rank: int | None = None, accumulative_counts: int | None = None
) -> list[BatchPlan]:
    """Plans nearest to what was asked for: up to two that meet ``total`` exactly, then the nearest that keeps the factor.

    Args:
        world_size: Ranks, W.
        total: The total batch wanted.
        samples_per_rank: The factor b the user fixed, or None.
        accumulative_counts: The factor A the user fixed, or None; exactly one of the two is given.
    """
    known = next(factor for factor in (samples_per_rank, accumulative_counts) if factor is not None)

    def plan(kept: int, other: int) -> BatchPlan:
        return BatchPlan(world_size, *((kept, other) if accumulative_counts is None else (other, kept)))

    per_rank, rest = divmod(total, world_size)
    factors = [] if rest else [factor for factor in range(1, per_rank + 1) if per_rank % factor == 0]
    below = [factor for factor in factors if factor < known][-1:]
    above = [factor for factor in factors if factor > known][:1]
    exact = [plan(factor, per_rank // factor) for factor in below + above]
    quotient = total // (world_size * known)
    kept = [plan(known, other) for other in (quotient, quotient + 1) if other >= 1]
    return exact + [min(kept, key=lambda candidate: abs(candidate.total_batch_size - total))]
