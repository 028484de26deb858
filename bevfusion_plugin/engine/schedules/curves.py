"""Learning-rate and momentum curves as pure functions of the update index.

Letters: k index of an update, from 0; T updates in all. Past the end every curve holds the value of its last update, k = T - 1
(OpenPCDet's cosines turn back up there).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

WARMUP_RATIO = 0.33333333  # OpenPCDet's constant, eight digits: a third would be 1e-8 off
ANNEALED_RATIO = 0.001


def cosine(start: float, end: float, progress: float) -> float:
    """Half a cosine from ``start`` at progress 0 to ``end`` at progress 1."""
    return end + (start - end) / 2 * (math.cos(math.pi * progress) + 1)


def one_cycle(index: int, total_steps: int, pct_start: float, start: float, peak: float, end: float) -> float:
    """Value of update ``index`` on the way ``start`` -> ``peak`` -> ``end``, two half cosines.

    The same curve serves the LR (LR/div_factor -> LR -> LR/div_factor/final_div_factor) and beta1 (high -> low -> high).

    Args:
        index: Update index k >= 0.
        total_steps: Updates in all, T >= 1.
        pct_start: Share of T before the turn, in [0, 1]. The turn is at int(pct_start * T), so that update has exactly
            ``peak``. If that is 0 the curve starts at the peak.
        start: Value of update 0.
        peak: Value at the turn, higher or lower than the two ends.
        end: Value that update T would have; update T - 1, the last one, stays short of it.

    Source:
        OpenPCDet tools/train_utils/optimization/learning_schedules_fastai.py, OneCycle; there int(pct_start * T) == 0
        divides by zero. Smith and Topin 2017, arXiv 1708.07120. torch and MMEngine end both phases one update earlier.
    """
    index = min(index, total_steps - 1)
    turn = int(pct_start * total_steps)
    if index < turn:
        return cosine(start, peak, index / turn)
    return cosine(peak, end, (index - turn) / (total_steps - turn))


def staircase_cosine(index: int, total_steps: int, num_epochs: int, warmup_iters: float, peak: float) -> float:
    """Value of update ``index``: linear warm-up from a third of ``peak``, then a cosine that falls once an epoch.

    Args:
        index: Update index k >= 0.
        total_steps: Updates in all, T >= 1.
        num_epochs: Steps of the staircase, E >= 1. Epoch e has c(e / E) with c(1) = peak / 1000, which no epoch reaches:
            the last one has c((E - 1) / E).
        warmup_iters: Updates of the warm-up, >= 0. It knows nothing of epochs: where it spans several, the value jumps at its
            end.
        peak: Value after the warm-up in epoch 0.

    Source:
        OpenPCDet tools/train_utils/optimization/learning_schedules_fastai.py, CosineAnnealing.
    """
    index = min(index, total_steps - 1)
    if index < warmup_iters:
        return peak * (1 - (1 - index / warmup_iters) * (1 - WARMUP_RATIO))
    epoch = index * num_epochs // total_steps  # whole numbers: exact where T is a multiple of E
    return cosine(peak, ANNEALED_RATIO * peak, epoch / num_epochs)


def step_decay(index: int, milestones: Sequence[float], gamma: float, eta_min: float, peak: float) -> float:
    """``peak`` times ``gamma`` for every milestone that update ``index`` has reached, never below ``eta_min``.

    Args:
        index: Update index k >= 0.
        milestones: Updates from which on one more ``gamma`` applies; order does not matter, a repeated one counts twice.
        gamma: Factor of a decay, > 0.
        eta_min: Floor of the result. A floor above ``peak`` raises it from the start, as OpenPCDet's LR_CLIP does; a peak of
            0 (``lr_mult=0``) stays 0.
        peak: Value before any decay.

    Source:
        OpenPCDet tools/train_utils/optimization/__init__.py, lr_lbmd: DECAY_STEP_LIST, LR_DECAY, LR_CLIP.
    """
    passed = sum(index >= milestone for milestone in milestones)
    return max(peak * gamma**passed, eta_min) if peak else peak


def cosine_warmup(index: int, total_steps: int, start: float, peak: float) -> float:
    """Half a cosine that rises from ``start`` at update 0 to ``peak`` at update ``total_steps``, and stays there.

    Source:
        OpenPCDet tools/train_utils/optimization/learning_schedules_fastai.py, CosineWarmupLR; there it swings back down.
    """
    return cosine(start, peak, min(index, total_steps) / total_steps)
