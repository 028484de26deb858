"""What people say about the batch, each as a comparison of two recipes, and what the finished runs say about it.

Source: docs/evidence.md for the reports; Goyal et al., "Accurate, Large Minibatch SGD", 2017 (linear scaling); Malladi et al., "On the SDEs and
Scaling Rules for Adaptive Gradient Algorithms", 2022 (square root for Adam).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from batch_study.records import Record

EQUAL_WITHIN = 0.02  # mAP; set before the runs. On nuScenes about 0.01 lies between two runs of one recipe
FEWEST_SEEDS = 2


@dataclass(frozen=True)
class Statement:
    """One statement.

    Args:
        text: What is said, in our words.
        source: Who says so, short as in docs/evidence.md.
        own, other: Letters of the recipes that are compared.
        expected: How the mAP of ``own`` should be to that of ``other``: 'lower', 'higher' or 'equal'.
    """

    text: str
    source: str
    own: str
    other: str
    expected: str


STATEMENTS = (
    Statement('accumulating to the reference\'s batch gives the reference\'s score', 'arithmetic; mit#374: partly', 'e', 'a', 'equal'),
    Statement('a small batch with the LR kept costs score', 'mit#619, mm3d#2897', 'b', 'a', 'lower'),
    Statement('the same, against a batch with as small BatchNorm groups', 'mit#619, mm3d#2897', 'b', 'e', 'lower'),
    Statement('a small batch with the LR scaled linearly loses next to nothing', 'mit#310', 'c', 'a', 'equal'),
    Statement('for a small batch, scaling linearly is better than keeping the LR', 'mit#619, mm3d#2967', 'c', 'b', 'higher'),
    Statement('for a small batch and Adam, the square root is better than linear', 'Malladi 2022', 'd', 'c', 'higher'),
    Statement('three times the batch with the LR kept gives the reference\'s score', 'much repeated: 4 x 3 x 8', 'f', 'a', 'equal'),
    Statement('8 epochs for 6 make up for three times the batch', 'much repeated', 'i', 'a', 'equal'),
    Statement('three times the batch is better with the LR scaled by the square root', 'Malladi 2022', 'g', 'f', 'higher'),
    Statement('three times the batch is better with the LR scaled linearly', 'Goyal 2017', 'h', 'f', 'higher'),
    Statement('MMEngine alone scales the LR as if nothing were accumulated, which costs score', 'MMEngine\'s source', 'j', 'e', 'lower'),
    Statement('the schedule carried past its end costs score', 'mm3d#2967, mm3d#3115', 'k', 'j', 'lower'),
    Statement('BatchNorm over groups of two costs next to nothing against SyncBN', 'mit#289', 'e', 'a', 'equal'),
    Statement('BatchNorm that sees one sample costs score', 'mit#355, mit#387', 'm', 'a', 'lower'),
    Statement(
        'running statistics that move 4 times an update cost score; bn_momentum_correction mends it', 'arithmetic', 'l', 'e', 'higher'
    ),
)


def of(records: Sequence[Record], letter: str) -> list[Record]:
    """The records of one recipe."""
    return [record for record in records if record.letter == letter]


def difference(own: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
    """Difference of two means and its standard error."""
    error = np.sqrt(np.var(own, ddof=1) / len(own) + np.var(other, ddof=1) / len(other))
    return float(np.mean(own) - np.mean(other)), float(error)


def verdict(expected: str, found: float, error: float) -> str:
    """'holds', 'does not hold' or 'open': a difference counts from twice its standard error on.

    'equal' holds if the difference is within EQUAL_WITHIN with twice its error, and does not if it is beyond without doubt.
    """
    low, high = found - 2 * error, found + 2 * error
    if expected == 'equal':
        holds, fails = -EQUAL_WITHIN < low and high < EQUAL_WITHIN, low > EQUAL_WITHIN or high < -EQUAL_WITHIN
    else:
        holds, fails = (high < 0, low > 0) if expected == 'lower' else (low > 0, high < 0)
    return 'holds' if holds else 'does not hold' if fails else 'open'


def judge(statement: Statement, records: Sequence[Record]) -> tuple[str, str, str]:
    """Differences of mAP and of the last epoch's loss in words, and the verdict; nothing is said on fewer than FEWEST_SEEDS seeds."""
    own, other = of(records, statement.own), of(records, statement.other)
    if min(len(own), len(other)) < FEWEST_SEEDS:
        return '', '', f'runs are missing ({statement.own}: {len(own)}, {statement.other}: {len(other)})'
    score = difference([record.final['mAP'] for record in own], [record.final['mAP'] for record in other])
    loss = difference([record.final_loss for record in own], [record.final_loss for record in other])
    few = min(len(own), len(other)) < 3
    return (
        f'{score[0]:+.3f} ± {score[1]:.3f}',
        f'{loss[0]:+.3f} ± {loss[1]:.3f}',
        verdict(statement.expected, *score) + few * ' (two seeds)',
    )
