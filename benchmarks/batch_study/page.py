"""The page that benchmarks/recipe.py writes, all of it from the records of finished runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from batch_study.figure import figure
from batch_study.records import Record, best_lr
from batch_study.statements import EQUAL_WITHIN, FEWEST_SEEDS, STATEMENTS, judge, of
from batch_study.variants import EPOCH_SAMPLES, EPOCHS, FOLDERS, REFERENCE_BATCH, ROUNDS, SMALL_BATCH, SWEEP, TRAINING_SAMPLES, VARIANTS

NOT_JUDGED = (
    ('absolute scores: 62.8, 66, 68.2 mAP', 'another data set, a far smaller detector'),
    ('lidar + camera: lidar checkpoint, image backbone, freezing', 'lidar only'),
    ('mixed precision, loss scale', 'float32 on a CPU'),
    ('an LR that diverges in the fifth of twenty epochs (mm3d#3103)', 'too short'),
    ('SyncBN over real ranks', 'one process: its arithmetic is emulated, its communication is not there'),
)


def spread(values: Sequence[float]) -> str:
    """'mean ± standard deviation' of a few runs."""
    return f'{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}' if len(values) > 1 else f'{values[0]:.3f}'


def sweep_table(records: Sequence[Record]) -> str:
    """Markdown table, a learning rate a row."""
    rows = ['| LR | loss of the last epoch | mAP | NDS |', '|---|---|---|---|']
    for lr in sorted(SWEEP):
        found = [record for record in records if (record.letter, record.seed, record.lr) == ('a', 0, lr)]
        rows += [f'| {lr:g} | {record.final_loss:.3f} | {record.final["mAP"]:.3f} | {record.final["NDS"]:.3f} |' for record in found]
        rows += [] if found else [f'| {lr:g} | missing | | |']
    return '\n'.join(rows)


def results_table(records: Sequence[Record]) -> str:
    """Markdown table, a recipe a row."""
    rows = ['| | recipe | runs | samples | updates | loss of the last epoch | mAP | NDS | mAP, statistics made anew |', '|---' * 9 + '|']
    for variant in VARIANTS:
        own = of(records, variant.letter)
        samples = variant.epochs * EPOCH_SAMPLES
        columns = [
            [record.final_loss for record in own],
            [record.final['mAP'] for record in own],
            [record.final['NDS'] for record in own],
            [record.renewed['mAP'] for record in own],
        ]
        cells = ' | '.join(map(spread, columns)) if own else 'missing | | | '
        rows.append(f'| {variant.letter} | {variant.title} | {len(own)} | {samples:,} | {variant.updates(samples):,} | {cells} |')
    return '\n'.join(rows)


def verdict_table(records: Sequence[Record]) -> str:
    """Markdown table, a statement a row."""
    rows = ['| statement | who says so | compared | mAP | loss | on these data |', '|---|---|---|---|---|---|']
    for statement in STATEMENTS:
        score, loss, verdict = judge(statement, records)
        rows.append(
            f'| {statement.text} | {statement.source} | {statement.own} to {statement.other}, expected {statement.expected} | {score} | {loss} | {verdict} |'
        )
    rows += [f'| {text} | [evidence.md](evidence.md) | | | | cannot be judged: {why} |' for text, why in NOT_JUDGED]
    return '\n'.join(rows)


def missing_runs(records: Sequence[Record], lr: float, seeds: int) -> str:
    """One line: what is not there yet."""
    there = {(record.letter, record.lr, record.seed) for record in records}
    missing = {seed: ''.join(variant.letter for variant in VARIANTS if (variant.letter, lr, seed) not in there) for seed in range(seeds)}
    if not any(missing.values()):
        return 'All runs are there.'
    lines = '; '.join(f'seed {seed}: {", ".join(letters)}' for seed, letters in missing.items() if letters)
    return f'**Runs are missing**: {lines}. `python benchmarks/recipe.py` goes on with them; until then the page says nothing about a recipe that has a single seed.'


def past_the_end(records: Sequence[Record]) -> str:
    """The loss by epoch of the schedule carried past its end, if it has runs enough."""
    own = of(records, 'k')
    if len(own) < FEWEST_SEEDS:
        return ''
    epochs = np.mean([record.epoch_losses for record in own], axis=0)
    return f'(k) by epoch, from {EPOCHS}, where its schedule ends: loss {", ".join(f"{loss:.2f}" for loss in epochs[EPOCHS - 1 :])}.\n'


def origins(records: Sequence[Record]) -> str:
    """When, at which commits and on what the runs were made."""
    days = sorted({record.begun for record in records})
    commits = ', '.join(f'{name} ({count})' for name, count in Counter(record.commit for record in records).items())
    machines = '; '.join(sorted({record.machine for record in records}))
    return f'The {len(records)} runs began on {" and ".join(days)}, at commits (runs of each) {commits}; {machines}.'


def swept(records: Sequence[Record], lr: float) -> str:
    """What the sweep says, with a warning if its best is at its end."""
    tried = sorted({record.lr for record in records if record.letter == 'a' and record.seed == 0})
    if len(tried) < len(SWEEP):
        return f'The sweep is not finished; the best so far is {lr:g}.'
    at_the_end = ', an end of the sweep: beyond it may be a better one' * (lr in (tried[0], tried[-1]))
    return f'The best mAP is at {lr:g}{at_the_end}. All that follows is trained with it as the LR of {REFERENCE_BATCH} samples. It was chosen by the scenes that score it, which favours (a) a little.'


def introduction(seeds: int) -> str:
    """What is compared on what."""
    return f"""# The recipe, tried out

`python benchmarks/recipe.py` trains one small lidar detector with {len(VARIANTS)} recipes, {seeds} seeds each, on synthetic nuScenes: {FOLDERS} data sets of
different seeds, together {FOLDERS * 8} scenes ({TRAINING_SAMPLES} key frames) to train on and {FOLDERS * 2} held out, which the official devkit scores (the mean of the {FOLDERS}).
{EPOCHS} epochs of {ROUNDS} x {TRAINING_SAMPLES} are {EPOCHS * EPOCH_SAMPLES:,} samples. The real sizes are scaled down by four: the reference machine's 32 samples an update are
{REFERENCE_BATCH} here, a machine that holds 8 of 32 holds {SMALL_BATCH}, and 4 x 3 x 8 = 96 are {3 * REFERENCE_BATCH}. One process stands for all ranks: (a), whose BatchNorms see all
{REFERENCE_BATCH} samples, is what SyncBN gives 4 ranks of 2; with accumulation they see {SMALL_BATCH}, or 1 in (m), as ranks without SyncBN do.
"""


def page(records: Sequence[Record], seeds: int) -> str:
    """The text of recipe.md; ``seeds`` are planned."""
    if not records:
        return f'{introduction(seeds)}\n**No run is finished yet.**\n'
    lr = best_lr(records)
    compared = [record for record in records if record.lr == lr]
    return f"""{introduction(seeds)}
{missing_runs(records, lr, seeds)}

## The reference's learning rate

{sweep_table(records)}

Seed 0, {REFERENCE_BATCH} samples an update, {EPOCHS} epochs. {swept(records, lr)}

## The recipes

{results_table(compared)}

Mean ± standard deviation over the seeds. The loss is that of the training. mAP and NDS are those of the last checkpoint as it is; the last column is
its mAP with BatchNorm statistics computed anew from {TRAINING_SAMPLES} training samples: what differs between the two columns is the running statistics' doing.

![losses and scores](recipe.png)

{past_the_end(compared)}
## What holds

Difference ± its standard error. A difference counts from twice its error on; "equal" means within {EQUAL_WITHIN} mAP, set before the runs. *Open*: these runs
cannot tell. Short names as in [evidence.md](evidence.md); Goyal 2017: linear scaling, for SGD;
Malladi 2022: square root, for Adam. What holds here holds for a small detector on easy data, which sees every key frame {EPOCHS * ROUNDS} times.

{verdict_table(compared)}

What a small batch loses in a full training shows only where more updates no longer win by themselves. Where its rows are open or do not hold, these would tell:
(a), (b) and (c) with three seeds each over the 20 epochs of the lidar stage on nuScenes.

{origins(records)}
"""


def write_page(folder: Path, records: Sequence[Record], seeds: int) -> Path:
    """The path of recipe.md, written with recipe.png into ``folder``."""
    if records:
        lr = best_lr(records)
        figure([record for record in records if record.lr == lr]).savefig(folder / 'recipe.png')
    (folder / 'recipe.md').write_text(page(records, seeds))
    return folder / 'recipe.md'
