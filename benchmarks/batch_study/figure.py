"""The figure of docs/recipe.md: loss and mAP against updates and against samples, a row a question."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from batch_study.records import Record
from batch_study.statements import of
from batch_study.variants import EPOCH_SAMPLES, LOGGED_SAMPLES, Variant

# Source: Okabe and Ito, "Color Universal Design", 2008: told apart with any kind of colour vision. Black is the reference.
COLOURS = ('#000000', '#D55E00', '#0072B2', '#009E73', '#CC79A7')
MARKERS = 'osD^v'
STYLES = ('a', 'bfjl', 'cgkm', 'dh', 'ei')  # letters that share a colour and a marker; never two in one row
QUESTIONS = {'a smaller batch': 'abcde', 'three times the batch': 'afghi', 'MMEngine alone': 'aejk', 'BatchNorm': 'aelm'}


def style_of(letter: str) -> int:
    """Number of the colour and the marker of a recipe."""
    return next(number for number, letters in enumerate(STYLES) if letter in letters)


def axis_of(variant: Variant, samples: np.ndarray, by_updates: bool) -> np.ndarray:
    """Where ``samples`` are on the horizontal axis."""
    return np.array([variant.updates(int(count)) for count in samples]) if by_updates else samples


def draw(axes: Axes, x: np.ndarray, values: np.ndarray, label: str, number: int, marked: bool) -> None:
    """A line for the mean of ``values`` (seeds, points) and a band for their range."""
    axes.plot(
        x, values.mean(axis=0), label=label, color=COLOURS[number], marker=MARKERS[number] if marked else '', markersize=5, linewidth=1.6
    )
    axes.fill_between(x, values.min(axis=0), values.max(axis=0), color=COLOURS[number], alpha=0.15, linewidth=0)


def curves(records: Sequence[Record]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of one recipe: samples and (seeds, points) losses, samples and (seeds, points) mAP."""
    losses = np.array([record.loss for record in records])
    epochs = sorted(records[0].scores, key=int)
    scores = np.array([[record.scores[epoch]['mAP'] for epoch in epochs] for record in records])
    seen = LOGGED_SAMPLES * np.arange(1, losses.shape[1] + 1)
    return seen, losses, EPOCH_SAMPLES * np.array([int(epoch) for epoch in epochs]), scores


def figure(records: Sequence[Record]) -> Figure:
    """``records`` are of one learning rate; a recipe without a run is left out."""
    result = Figure(figsize=(20, 14), dpi=80, layout='constrained')
    grid = result.subplots(len(QUESTIONS), 4, squeeze=False)
    for row, (question, letters) in zip(grid, QUESTIONS.items()):
        for column, axes in enumerate(row):
            by_updates, is_score = column % 2 == 0, column >= 2
            for letter in letters:
                own = of(records, letter)
                if own:
                    seen, losses, scored, scores = curves(own)
                    x, values = (scored, scores) if is_score else (seen, losses)
                    draw(
                        axes,
                        axis_of(own[0].variant, x, by_updates),
                        values,
                        f'{letter}  {own[0].variant.title}',
                        style_of(letter),
                        is_score,
                    )
            finish(axes, 'updates' if by_updates else 'samples', 'mAP' if is_score else 'training loss')
        row[0].set_title(question, loc='left', fontsize=14, fontweight='bold')
        row[-1].legend(fontsize=10, loc='center left', bbox_to_anchor=(1.02, 0.5), frameon=False)
    return result


def finish(axes: Axes, x: str, y: str) -> None:
    """Names, few ticks in plain numbers, a faint grid."""
    axes.set_xlabel(x, fontsize=11)
    axes.set_ylabel(y, fontsize=11)
    axes.tick_params(labelsize=10)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter('{x:,.0f}')
    axes.grid(alpha=0.3)
