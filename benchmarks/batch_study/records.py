"""A finished run of benchmarks/recipe.py as a small JSON file, from which the page is made without training."""

from __future__ import annotations

import datetime
import json
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from batch_study.scores import SCORES
from batch_study.variants import BY_LETTER, EPOCH_SAMPLES, EPOCHS, LOGGED_SAMPLES, Variant, config_in_brief

RECORDS = Path(__file__).resolve().parents[1] / 'recipe_runs'
COMMIT = 'commit'  # file in a run's folder with the commit at which it began
SWEEP_FOLDER = 'sweep'


@dataclass(frozen=True)
class Run:
    """Which run: a variant's letter, the peak learning rate of the reference batch, the seed."""

    letter: str
    lr: float
    seed: int

    @property
    def name(self) -> str:
        """Name of its folder and its record."""
        return f'{self.letter}_lr_{self.lr:g}_seed_{self.seed}'

    @property
    def variant(self) -> Variant:
        return BY_LETTER[self.letter]

    @property
    def path(self) -> Path:
        """Where its record is; the reference's with seed 0 are the sweep."""
        folder = SWEEP_FOLDER if self.letter == 'a' and self.seed == 0 else f'seed_{self.seed}'
        return RECORDS / folder / f'{self.name}.json'


@dataclass(frozen=True)
class Record:
    """A finished run.

    Args:
        letter, lr, seed: Which run, as in :class:`Run`.
        config: Recipe in brief, with the SHA-256 of the whole config.
        begun: Day, year first.
        commit: At which it began.
        machine: torch's version and the processor's kind.
        loss: Mean of every LOGGED_SAMPLES samples, in order.
        scores: mAP and NDS by epoch.
        renewed: mAP and NDS at the end with BatchNorm statistics made anew.
    """

    letter: str
    lr: float
    seed: int
    config: dict[str, Any]
    begun: str
    commit: str
    machine: str
    loss: list[float]
    scores: dict[str, dict[str, float]]
    renewed: dict[str, float]

    @property
    def variant(self) -> Variant:
        return BY_LETTER[self.letter]

    @property
    def samples(self) -> int:
        """Seen in all."""
        return LOGGED_SAMPLES * len(self.loss)

    @property
    def updates(self) -> int:
        """Made in all."""
        return self.variant.updates(self.samples)

    @property
    def final_loss(self) -> float:
        """Mean of the last epoch."""
        return self.epoch_losses[-1]

    @property
    def epoch_losses(self) -> list[float]:
        """Mean of each epoch."""
        size = EPOCH_SAMPLES // LOGGED_SAMPLES
        return [sum(self.loss[start : start + size]) / size for start in range(0, len(self.loss), size)]

    @property
    def final(self) -> dict[str, float]:
        """mAP and NDS at the end."""
        return self.scores[max(self.scores, key=int)]

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + '\n')


def scored_epochs(variant: Variant) -> list[int]:
    """Every other epoch, the one where the usual schedule ends and the last."""
    return sorted({*range(2, variant.epochs + 1, 2), EPOCHS, variant.epochs})


def read_records(folder: Path = RECORDS) -> list[Record]:
    """All records below ``folder``, by letter, learning rate and seed."""
    records = [Record(**json.loads(path.read_text())) for path in sorted(folder.rglob('*.json'))]
    return sorted(records, key=lambda record: (record.letter, record.lr, record.seed))


def losses(folder: Path) -> list[float]:
    """What the run in ``folder`` logged, its pieces joined where it was stopped and resumed."""
    by_step = {}
    for log in sorted(folder.glob('*/vis_data/scalars.json')):
        entries = [json.loads(line) for line in log.read_text().splitlines()]
        by_step.update({entry['step']: round(entry['loss'], 4) for entry in entries if 'loss' in entry})
    return [by_step[step] for step in sorted(by_step)]


def record_of(run: Run, folder: Path) -> Record:
    """Of the finished and scored run in ``folder``.

    Raises:
        ValueError: If its log does not hold a loss for every LOGGED_SAMPLES samples.
    """
    loss, due = losses(folder), run.variant.epochs * EPOCH_SAMPLES // LOGGED_SAMPLES
    if len(loss) != due:
        raise ValueError(f'{folder} logged {len(loss)} losses, and {due} are due; remove the folder to train the run again')
    begun = min(path.name for path in folder.glob('[0-9]*_[0-9]*'))  # MMEngine's folder of the first piece
    scores = json.loads((folder / SCORES).read_text())
    return Record(
        run.letter,
        run.lr,
        run.seed,
        config_in_brief(run.variant, run.lr),
        datetime.datetime.strptime(begun[:8], '%Y%m%d').date().isoformat(),
        (folder / COMMIT).read_text(),
        f'torch {torch.__version__}, {platform.machine()} CPU, float32',
        loss,
        scores['epochs'],
        scores['renewed'],
    )


def best_lr(records: Sequence[Record]) -> float:
    """Of the sweep: the learning rate with the highest mAP."""
    return max((record for record in records if record.letter == 'a' and record.seed == 0), key=lambda record: record.final['mAP']).lr


def commit() -> str:
    """Short name of the checked-out commit, marked if files differ from it."""
    command = ['git', '-C', str(RECORDS.parent), 'describe', '--always', '--dirty', '--exclude', '*']
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() or 'unknown'
