"""Numbers of trainings for the tests of the divergence sentinel: a published one that diverged, and invented healthy ones."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

# The log published in open-mmlab/mmdetection3d#3103 (lidar-only BEVFusion, 4 GPUs x 4, LR of 32), every 50 iterations of
# epoch 5: healthy at iterations 3600 to 3750, diverged at 5550 to 5700.
HEALTHY = [
    dict(grad_norm=2.5431, loss=2.8740, matched_ious=0.3713),
    dict(grad_norm=2.3138, loss=2.8288, matched_ious=0.3741),
    dict(grad_norm=2.6926, loss=2.8087, matched_ious=0.3938),
    dict(grad_norm=2.7535, loss=2.8263, matched_ious=0.3820),
]
DIVERGED = [
    dict(grad_norm=58.9075, loss=8.5249, matched_ious=0.0103),
    dict(grad_norm=28.3981, loss=8.6812, matched_ious=0.0108),
    dict(grad_norm=52.4315, loss=8.3375, matched_ious=0.0120),
    dict(grad_norm=51.1289, loss=8.2282, matched_ious=0.0135),
]
LOG_INTERVAL = 50
EPOCH = 7724  # iterations
START = 4 * EPOCH + 3600
HEALTHY_ITERATIONS = 16 * LOG_INTERVAL  # of the replay, before 500 diverged ones


def replay(noise: float = 0.0, seed: int = 0) -> Iterator[dict[str, float]]:
    """The published log, every line standing for its 50 iterations; ``noise``: of single iterations about it, as exp(N(0, s))."""
    rng = random.Random(seed)
    for line in HEALTHY * 4 + DIVERGED * 2 + DIVERGED[:2]:  # 800 healthy, 500 diverged iterations
        for _ in range(LOG_INTERVAL):
            yield {name: value * math.exp(rng.gauss(0, noise)) for name, value in line.items()}


def healthy_run(updates: int = 12_000, seed: int = 1) -> Iterator[tuple[int, dict[str, float]]]:
    """Warm-up with huge gradients and skips, a loss that falls noisily, frames without objects, single spikes."""
    rng = random.Random(seed)
    skipped = 0
    for update in range(1, updates + 1):
        warm = math.exp(-update / 150)
        loss = (3 + 17 * warm + 2 * math.exp(-update / 4000)) * math.exp(rng.gauss(0, 0.25))
        norm = (3 + 60 * warm) * math.exp(rng.gauss(0, 0.4))
        if update == 9:
            norm = 7217.0  # ZYang2077/DAOcc#25
        if update in (5000, 5001, 9000):
            loss, norm = 30 * loss, 300 * norm
        skipped += update < 30 or update % 2000 == 0
        iou = 0.0 if rng.random() < 0.1 else 0.45 * (1 - math.exp(-update / 3000)) * math.exp(rng.gauss(0, 0.2))
        yield update, dict(loss=loss, grad_norm=norm, matched_ious=iou, skipped_updates=skipped)


def large_gradients(updates: int = 6000, first: float = 26.0, last: float = 100.0, seed: int = 2) -> Iterator[dict[str, float]]:
    """A healthy run whose gradient norm drifts from ``first`` to ``last`` while its loss falls."""
    rng = random.Random(seed)
    for update in range(updates):
        norm = first * (last / first) ** (update / updates)
        loss = 3 + 5 * math.exp(-update / 1000)
        yield dict(loss=loss * math.exp(rng.gauss(0, 0.1)), grad_norm=norm * math.exp(rng.gauss(0, 0.3)))
