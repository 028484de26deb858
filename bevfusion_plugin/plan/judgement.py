"""What follows from a batch plan, and why one is bad.

Letters as in :mod:`bevfusion_plugin.plan.batch_plan`: W ranks, b samples a rank a micro-batch, A micro-batches a window. The
reference is the training that the learning rate was tuned for: the same samples and epochs in updates of the base batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from bevfusion_plugin.plan.batch_plan import FLUSHES, RULES, BatchPlan, count_updates
from bevfusion_plugin.plan.checked_settings import one_of, positive_int

FEWEST_UPDATES = 0.5  # of the reference's
MEMORY_SHARE = 0.9  # of the GPU; the rest is for peaks that no model of the memory knows
LOWEST_KEPT_TOTAL = 0.5  # of the base batch, below which an LR that was not scaled is too high
UNITS = ('share', 'updates', 'epochs', 'micro-batches')


@dataclass(frozen=True)
class WarmUp:
    """How long the LR rises: ``length`` in ``unit``.

    Attributes:
        length: How many, or how much.
        unit: ``'share'`` of all updates (one-cycle), ``'updates'``, ``'epochs'``, or ``'micro-batches'``, which is what
            MMEngine's own schedulers count with ``by_epoch=False``, whatever the accumulation.
    """

    length: float
    unit: str

    def __post_init__(self) -> None:
        one_of('unit', self.unit, UNITS)

    def updates(self, plan: BatchPlan, updates: int, updates_per_epoch: int) -> float:
        """The length in updates of ``plan``; below 1 where the warm-up ends inside the first window."""
        if self.unit == 'micro-batches':
            return self.length / plan.accumulative_counts
        return self.length * {'share': updates, 'updates': 1, 'epochs': updates_per_epoch}[self.unit]


@dataclass(frozen=True)
class Training:
    """What all plans that are compared have in common.

    Attributes:
        world_size: Ranks, W.
        base_batch_size: Total batch the LR was tuned for.
        lr: That LR.
        samples: Samples an epoch, as the sampler draws them.
        epochs: Epochs.
        rule: How the LR follows the total batch; ``'none'``: it is kept.
        warm_up: How long the LR rises.
        flush: Where a short window ends; see :func:`count_updates`.
        batch_norm: Whether the model has BatchNorm layers that see one rank's micro-batch.

    Raises:
        ValueError: If a number is not positive, or a word unknown.
    """

    world_size: int
    base_batch_size: int
    lr: float
    samples: int
    epochs: int
    rule: str = 'linear'
    warm_up: WarmUp = WarmUp(0, 'updates')
    flush: str = 'epoch'
    batch_norm: bool = True

    def __post_init__(self) -> None:
        positive_int('world_size', self.world_size, 'it is the number of GPUs')
        positive_int('base_batch_size', self.base_batch_size, 'it is the total batch the LR was tuned for')
        positive_int('samples', self.samples, 'it is the number of samples an epoch')
        positive_int('epochs', self.epochs, 'it is the length of the training')
        if not self.lr > 0:
            raise ValueError(f'lr must be positive, got {self.lr}; it is the LR that was tuned for the base batch')
        one_of('rule', self.rule, tuple(RULES))
        one_of('flush', self.flush, FLUSHES)

    def updates(self, total_batch_size: int) -> int:
        """Updates in all, ceil(epochs * samples / total): each sees ``total_batch_size`` samples, the last perhaps fewer."""
        return count_updates(self.epochs * self.samples, total_batch_size)


@dataclass(frozen=True)
class JudgedPlan:
    """A plan and what follows from it.

    Attributes:
        plan: The plan.
        updates_per_epoch: Updates an epoch of the dataloader.
        updates: Updates in all by the number of samples.
        loop_updates: Updates in all as the loop makes them: ranks padded to equal shares, short windows where ``flush`` says.
        warm_up: Length of the warm-up in updates.
        lrs: LR by rule.
        memory: GiB a GPU needs; None where it is not known, infinite where the GPU ran out of it.
        notes: What to know about it.
        faults: Why it is bad.
    """

    plan: BatchPlan
    updates_per_epoch: int
    updates: int
    loop_updates: int
    warm_up: float
    lrs: Mapping[str, float]
    memory: float | None = None
    notes: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """``'bad'``, ``'usable'``, or ``'good'`` where there is nothing to remark."""
        return 'bad' if self.faults else 'usable' if self.notes else 'good'

    @property
    def equivalent_machine(self) -> str:
        """The machine that makes the same updates without accumulation, BatchNorm's groups included: W*A GPUs x b samples."""
        return f'{self.plan.world_size * self.plan.accumulative_counts} x {self.plan.samples_per_rank}'

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain values."""
        plan = self.plan
        return dict(
            world_size=plan.world_size,
            samples_per_rank=plan.samples_per_rank,
            accumulative_counts=plan.accumulative_counts,
            total_batch_size=plan.total_batch_size,
            updates_per_epoch=self.updates_per_epoch,
            updates=self.updates,
            loop_updates=self.loop_updates,
            warm_up_updates=self.warm_up,
            lr=dict(self.lrs),
            rule=plan.rule,
            equivalent_machine=self.equivalent_machine,
            memory_gib=None if self.memory == float('inf') else self.memory,
            verdict=self.verdict,
            notes=list(self.notes),
            faults=list(self.faults),
        )


def short(lr: float) -> str:
    """A learning rate with three digits, as in a config: 2.25e-4."""
    digits, exponent = f'{lr:.2e}'.split('e')
    return f'{float(digits):g}e{int(exponent)}'


def judge(plan: BatchPlan, training: Training, memory: float | None = None, gpu_memory: float | None = None) -> JudgedPlan:
    """What follows from ``plan``, with its faults and notes.

    Args:
        plan: The plan; its base batch and rule are taken from ``training``.
        training: What is trained.
        memory: GiB it needs a GPU, if known.
        gpu_memory: GiB a GPU has, if known.
    """
    plan = replace(plan, base_batch_size=training.base_batch_size, rule=training.rule)
    length = plan.batches_per_epoch(training.samples)
    updates, per_epoch = training.updates(plan.total_batch_size), plan.updates_per_epoch(length)
    judged = JudgedPlan(
        plan,
        per_epoch,
        updates,
        plan.total_updates(training.epochs, length, training.flush),
        training.warm_up.updates(plan, updates, per_epoch),
        {rule: training.lr * replace(plan, rule=rule).lr_ratio for rule in RULES},
        memory,
    )
    faults = [
        *_update_faults(judged, training),
        *_window_faults(judged, training, length),
        *_batch_faults(plan, training),
        *_memory_faults(memory, gpu_memory),
    ]
    return replace(judged, notes=tuple(_notes(judged, training)), faults=tuple(faults))


def _update_faults(judged: JudgedPlan, training: Training) -> Iterator[str]:
    reference = training.updates(training.base_batch_size)
    share = judged.updates / reference
    if share < FEWEST_UPDATES:
        yield (
            f'{judged.updates:,} updates, {share:.0%} of the {reference:,} that the reference makes; accumulate less, or '
            f'train {1 / share:.2g} times the epochs'
        )


def _window_faults(judged: JudgedPlan, training: Training, length: int) -> Iterator[str]:
    counts, warm_up = judged.plan.accumulative_counts, training.warm_up
    if counts > length:
        yield f'a window of {counts} micro-batches is longer than an epoch of {length}; accumulate less'
    if 0 < judged.warm_up < 1:
        yield (
            f'the window of {counts} micro-batches is longer than the warm-up of {warm_up.length:.3g} {warm_up.unit}: the '
            'first update already takes the full LR'
        )


def _batch_faults(plan: BatchPlan, training: Training) -> Iterator[str]:
    if plan.samples_per_rank == 1 and training.batch_norm:
        yield 'BatchNorm sees one sample a GPU (58.9 mAP, mit-han-lab/bevfusion#387), and accumulation does not change that'
    if training.rule == 'none' and plan.total_batch_size < LOWEST_KEPT_TOTAL * training.base_batch_size:
        yield (
            f'the LR tuned for {training.base_batch_size} is kept for {plan.total_batch_size} samples (62.8 mAP, '
            'mit-han-lab/bevfusion#619); scale it or accumulate'
        )


def _memory_faults(memory: float | None, gpu_memory: float | None) -> Iterator[str]:
    if memory is not None and gpu_memory is not None and memory > MEMORY_SHARE * gpu_memory:
        need = f'{memory:.1f} GiB' if memory < float('inf') else 'more memory than there is'
        yield f'needs {need}; {MEMORY_SHARE:.0%} of the GPU are {MEMORY_SHARE * gpu_memory:.1f}'


def _notes(judged: JudgedPlan, training: Training) -> Iterator[str]:
    total, base, warm_up = judged.plan.total_batch_size, training.base_batch_size, training.warm_up
    if total != base:
        kept = f', and the LR is kept at {short(training.lr)}' if training.rule == 'none' else ''
        yield f'{total} is not the base batch of {base} but {total / base:.4g} times it{kept}'
    if warm_up.unit == 'micro-batches' and warm_up.length and judged.plan.accumulative_counts > 1:
        yield (
            f'the warm-up of {warm_up.length:g} counts micro-batches and so lasts {judged.warm_up:.4g} updates; schedulers of '
            'bevfusion_plugin count updates'
        )
