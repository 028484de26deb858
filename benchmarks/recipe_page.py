"""The page and the figure that benchmarks/recipe.py writes."""

from __future__ import annotations

import datetime
import platform
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from recipe_variants import EPOCHS, LOGGED_SAMPLES, REFERENCE_BATCH, ROUNDS, SMALL_BATCH, TRAINING_SAMPLES, Variant

# Okabe and Ito's colours, which nearly everyone can tell apart, and a mark for each kind of recipe.
BLACK, BLUE, GREEN, ORANGE, PURPLE = '#000000', '#0072B2', '#009E73', '#E69F00', '#CC79A7'
STYLES = dict(
    a=(BLACK, 'o'), b=(BLUE, 's'), c=(BLUE, 's'), d=(BLUE, 's'), e=(GREEN, 'D'), f=(ORANGE, '^'), g=(PURPLE, 'v'), h=(PURPLE, 'v')
)


@dataclass(frozen=True)
class Run:
    """One training: loss by logged step, final mAP and NDS by name, the day (YYYYMMDD) and the commit at which it began."""

    letter: str
    seed: int
    losses: dict[int, float]
    scores: dict[str, float]
    begun: str
    commit: str

    @property
    def curve(self) -> np.ndarray:
        """Mean loss of every LOGGED_SAMPLES samples, in order."""
        return np.array([self.losses[step] for step in sorted(self.losses)])

    @property
    def final_loss(self) -> float:
        """Mean loss of the last epoch."""
        return float(self.curve[-ROUNDS * TRAINING_SAMPLES // LOGGED_SAMPLES :].mean())


def spread(values: Sequence[float]) -> str:
    """'mean +- standard deviation' of a few runs."""
    return f'{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}' if len(values) > 1 else f'{values[0]:.3f}'


def table(variants: Sequence[Variant], runs: Sequence[Run]) -> str:
    """Markdown table, a variant a row."""
    rows = ['| | recipe | runs | loss of the last epoch | mAP | NDS |', '|---|---|---|---|---|---|']
    for variant in variants:
        own = [run for run in runs if run.letter == variant.letter]
        if own:
            columns = [[run.final_loss for run in own], *([run.scores[name] for run in own] for name in ('mAP', 'NDS'))]
            rows.append(f'| {variant.letter} | {variant.title} | {len(own)} | {" | ".join(map(spread, columns))} |')
    return '\n'.join(rows)


def figure(page: str) -> Figure:
    """Loss and mAP of the recipes in the table of the page, mean and standard deviation over the seeds."""
    cells = [[cell.strip() for cell in line.strip('|').split('|')] for line in page.splitlines() if re.match(r'\| [a-z] \|', line)]
    result = Figure(figsize=(12, 4.5), dpi=110, layout='constrained')
    for axis, column, name in zip(result.subplots(1, 2, sharey=True), (3, 4), ('training loss of the last epoch', 'mAP')):
        for row, recipe in enumerate(cells):
            mean, deviation = map(float, recipe[column].split('±'))
            color, marker = STYLES[recipe[0]]
            axis.errorbar(mean, row, xerr=deviation, fmt=marker, color=color, markersize=9, capsize=5, linewidth=2)
        axis.axvline(float(cells[0][column].split('±')[0]), color=STYLES['a'][0], linewidth=1, linestyle=':')
        axis.set_xlabel(name, fontsize=12)
        axis.tick_params(labelsize=11)
        axis.grid(axis='x', alpha=0.3)
        axis.spines[['top', 'right']].set_visible(False)
    result.axes[0].set_yticks(range(len(cells)), [f'{letter}  {title}' for letter, title, *_ in cells])
    result.axes[0].invert_yaxis()
    return result


def write_page(folder: Path, variants: Sequence[Variant], runs: Sequence[Run], lr: float) -> Path:
    """The path of recipe.md, written with recipe.png into ``folder``."""
    checked_out = commit()  # before the page itself differs from it
    folder.mkdir(exist_ok=True)
    page = folder / 'recipe.md'
    page.write_text(f"""# The recipe, tried out

`python benchmarks/recipe.py` trains one small lidar detector with {len(variants)} recipes, {len({run.seed for run in runs})} seeds each, on the demo's
synthetic nuScenes and scores it with the official devkit on the two held-out scenes. All recipes see the same number of samples,
{EPOCHS} epochs of {ROUNDS} x {TRAINING_SAMPLES} = {EPOCHS * ROUNDS * TRAINING_SAMPLES} (h: 10 epochs). The real sizes are scaled down: the reference machine's 32 samples
an update are {REFERENCE_BATCH} here, and the machine that cannot hold them (12 of 32) holds {SMALL_BATCH}. The peak learning rate at {REFERENCE_BATCH} samples is {lr:g}.

{table(variants, runs)}

Mean ± standard deviation over the seeds.

How to read it: trainings this short are far from converged, so the number of updates counts for more than it does in a real one. The loss is
that of the training; the scores are those of the last checkpoint with BatchNorm statistics computed anew from {TRAINING_SAMPLES} training samples, for
all alike (benchmarks/recipe_scores.py): the running ones, with the recipes' momentum of 0.01, lag behind so few updates.

![Loss and mAP of each recipe, mean and standard deviation](recipe.png)

{conclusions(runs)}

{begins(runs)}
Written on {datetime.date.today().isoformat()} at commit {checked_out}, torch {torch.__version__}, {platform.machine()} CPU, float32.
""")
    return draw(page)


def draw(page: Path) -> Path:
    """The path of recipe.md itself, its figure drawn beside it."""
    figure(page.read_text()).savefig(page.with_suffix('.png'))
    return page


def conclusions(runs: Sequence[Run]) -> str:
    """One line a recipe with two runs or more: how far its loss and mAP are from the reference's, with the standard errors."""
    letters = sorted({run.letter for run in runs})
    lines = ['Against (a), the reference batch, ± standard error of the difference:', '']
    for letter in letters:
        own, reference = ([run for run in runs if run.letter == name] for name in (letter, 'a'))
        if letter != 'a' and min(len(own), len(reference)) > 1:
            loss = difference([run.final_loss for run in own], [run.final_loss for run in reference])
            score = difference([run.scores['mAP'] for run in own], [run.scores['mAP'] for run in reference])
            lines.append(f'- ({letter}) loss {loss}, mAP {score}')
    late = [run for run in runs if run.letter == 'h']
    if late:
        epochs = np.mean([run.curve.reshape(-1, ROUNDS * TRAINING_SAMPLES // LOGGED_SAMPLES).mean(axis=1) for run in late], axis=0)
        lines += [
            '',
            f'(h) by epoch, from {EPOCHS}, where its schedule ends: loss '
            + ', '.join(f'{loss:.2f}' for loss in epochs[EPOCHS - 1 :])
            + '.',
        ]
    return '\n'.join(lines)


def difference(own: Sequence[float], reference: Sequence[float]) -> str:
    """Difference of two means and its standard error."""
    error = np.sqrt(np.var(own, ddof=1) / len(own) + np.var(reference, ddof=1) / len(reference))
    return f'{np.mean(own) - np.mean(reference):+.3f} ± {error:.3f}'


def begins(runs: Sequence[Run]) -> str:
    """When and with which commits the runs began."""
    days, commits = ([*dict.fromkeys(sorted(values))] for values in ([run.begun for run in runs], [run.commit for run in runs]))
    counts = ', '.join(f'{name} ({sum(run.commit == name for run in runs)})' for name in commits)
    return f'The {len(runs)} runs began on {" and ".join(days)}, at commits (runs of each) {counts}.'


def commit() -> str:
    """Short name of the checked-out commit, marked if files differ from it."""
    command = ['git', '-C', str(Path(__file__).parent), 'describe', '--always', '--dirty', '--exclude', '*']
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() or 'unknown'
