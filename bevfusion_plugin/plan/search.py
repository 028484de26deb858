"""The batch plans that a machine can take, the one that was asked for, and a better one where that is bad."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bevfusion_plugin.plan.batch_plan import BatchPlan, nearest_plans
from bevfusion_plugin.plan.judgement import JudgedPlan, Training, judge

SAMPLES_LISTED = (1, 2, 3, 4, 6, 8)  # b of the plans that are looked at beside the one asked for
COUNTS_LISTED = (1, 2, 4, 8)  # A of the plans that keep the b asked for


@dataclass(frozen=True)
class PlanSearch:
    """An answered question for a plan.

    Attributes:
        training: What is trained.
        target: Total batch that was to be reached.
        plans: The plans looked at, in ascending order of b and A.
        chosen: Which of them was asked for, else ``recommended``.
        recommended: Which fits, has no fault and comes nearest to ``target``. None where there is none, or where neither the
            question nor the memory limits b.
        problem: Why no plan answers the question exactly, or None.
    """

    training: Training
    target: int
    plans: tuple[JudgedPlan, ...]
    chosen: JudgedPlan | None
    recommended: JudgedPlan | None
    problem: str | None = None

    @property
    def findings(self) -> list[str]:
        """What is wrong with the plan that was asked for."""
        return [*([] if self.problem is None else [self.problem]), *(self.chosen.faults if self.chosen else ())]

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain values."""
        training = self.training
        return dict(
            world_size=training.world_size,
            base_batch_size=training.base_batch_size,
            lr=training.lr,
            rule=training.rule,
            samples=training.samples,
            epochs=training.epochs,
            target=self.target,
            reference_updates=training.updates(training.base_batch_size),
            findings=self.findings,
            plans=[plan.as_dict() | dict(chosen=plan is self.chosen, recommended=plan is self.recommended) for plan in self.plans],
        )


def search_plans(
    training: Training,
    samples_per_rank: int | None = None,
    accumulative_counts: int | None = None,
    total_batch_size: int | None = None,
    memory_of: Callable[[int], float] | None = None,
    gpu_memory: float | None = None,
) -> PlanSearch:
    """The plans for ``training`` around the one that was asked for.

    Args:
        training: What is trained.
        samples_per_rank: b asked for, or None.
        accumulative_counts: A asked for, or None.
        total_batch_size: Total batch to reach; None: the base batch.
        memory_of: GiB a GPU needs for b samples, if that is known.
        gpu_memory: GiB a GPU has, if known.

    Raises:
        ValueError: If a number is no positive int, or all three are given and contradict each other.
    """
    target = training.base_batch_size if total_batch_size is None else total_batch_size
    asked, problem = choose(training.world_size, training.base_batch_size, samples_per_rank, accumulative_counts, total_batch_size)
    plans = enumerate_plans(training.world_size, target, samples_per_rank, accumulative_counts)
    memories = {b: memory_of(b) for b in sorted({plan.samples_per_rank for plan in plans})} if memory_of else {}
    judged = tuple(judge(plan, training, memories.get(plan.samples_per_rank), gpu_memory) for plan in plans)
    # Without knowledge of the memory, no more samples than asked for are sure to fit.
    fitting = [each for each in judged if memories or asked and each.plan.samples_per_rank <= asked.samples_per_rank]
    recommended = recommend(fitting, target)
    return PlanSearch(training, target, judged, judged[plans.index(asked)] if asked else recommended, recommended, problem)


def choose(
    world_size: int,
    base_batch_size: int,
    samples_per_rank: int | None,
    accumulative_counts: int | None,
    total_batch_size: int | None = None,
) -> tuple[BatchPlan | None, str | None]:
    """The plan that was asked for, and why it is not quite what was asked for.

    Args:
        world_size: Ranks, W.
        base_batch_size: Total batch the LR was tuned for.
        samples_per_rank: b asked for, or None.
        accumulative_counts: A asked for, or None.
        total_batch_size: Total batch asked for; None: the base batch, unless b and A say otherwise.

    Returns:
        The plan; None where neither b nor A is given. With one of them and a target out of its reach the nearest plan that keeps
        it, and the problem as text.

    Raises:
        ValueError: If a number is no positive int, or the three contradict each other.
    """
    b, A = samples_per_rank, accumulative_counts
    target = base_batch_size if total_batch_size is None else total_batch_size
    BatchPlan(world_size, 1 if b is None else b, 1 if A is None else A, target)  # refuses what is no positive int
    if b is None and A is None:
        return None, None
    if b is not None and A is not None:
        return BatchPlan.derive(world_size, total_batch_size=total_batch_size, samples_per_rank=b, accumulative_counts=A), None
    try:
        return BatchPlan.derive(world_size, total_batch_size=target, samples_per_rank=b, accumulative_counts=A), None
    except ValueError as problem:
        return nearest_plans(world_size, target, b, A)[-1], str(problem)


def enumerate_plans(
    world_size: int, target: int, samples_per_rank: int | None = None, accumulative_counts: int | None = None
) -> list[BatchPlan]:
    """Plans worth comparing, in ascending order of b and A, each once.

    For each b of SAMPLES_LISTED the one that reaches ``target``, or comes nearest to it with that b. With ``samples_per_rank``
    also those that keep it, with A of COUNTS_LISTED; with ``accumulative_counts`` alone those that keep that.

    Args:
        world_size: Ranks, W.
        target: Total batch wanted.
        samples_per_rank: b asked for, or None.
        accumulative_counts: A asked for, or None.
    """
    b, counts = samples_per_rank, accumulative_counts
    plans = {choose(world_size, target, each, None)[0] for each in (*SAMPLES_LISTED, *([] if b is None else [b]))}
    if b is not None:
        plans |= {BatchPlan(world_size, b, each) for each in (*COUNTS_LISTED, *([] if counts is None else [counts]))}
    elif counts is not None:
        plans |= {choose(world_size, target, None, counts)[0], *(BatchPlan(world_size, each, counts) for each in SAMPLES_LISTED)}
    return sorted((plan for plan in plans if plan is not None), key=lambda plan: (plan.samples_per_rank, plan.accumulative_counts))


def recommend(plans: Sequence[JudgedPlan], target: int) -> JudgedPlan | None:
    """Of the plans without a fault the nearest to ``target``, of those the one that accumulates least; None if all are bad."""
    return min(
        (judged for judged in plans if not judged.faults),
        default=None,
        key=lambda judged: (abs(math.log(judged.plan.total_batch_size / target)), judged.plan.accumulative_counts),
    )
