"""What MMEngine writes into a run's folder, ``<work_dir>/<timestamp>/``: scalars, one JSON object a line, and the text log."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bevfusion_plugin.plan.training_table import TITLE

TIMESTAMP = re.compile(r'\d{8}_\d{6}')
RULE = '-' * 60  # MMEngine's line around the environment
WORLD_SIZE = re.compile(r'^\s*GPU number: (\d+)\s*$', re.MULTILINE)
EPOCH_LENGTH = re.compile(r'Epoch\(train\)\s+\[\s*\d+\]\[\s*\d+/(\d+)\]')

Number = float | int


@dataclass(frozen=True)
class Evaluation:
    """One validation: the step as logged (mostly the epoch), the last training iteration logged before it, and the metrics."""

    step: int
    iteration: int
    values: dict[str, Number]


@dataclass(frozen=True)
class RunLog:
    """The scalars of one start of a training, in the order of the log."""

    folder: Path
    training: tuple[tuple[int, dict[str, Number]], ...]
    evaluations: tuple[Evaluation, ...]


@dataclass(frozen=True)
class TextLog:
    """What only the text log says.

    Attributes:
        environment: The block MMEngine opens its log with; '' if it is not there.
        plan_rows: (name, value) of TrainingMonitorHook's table; empty if the run was made without it.
        world_size: Ranks; None if it does not say.
        batches_per_epoch: Micro-batches an epoch, L; None if it does not say.
    """

    environment: str = ''
    plan_rows: tuple[tuple[str, str], ...] = field(default=())
    world_size: int | None = None
    batches_per_epoch: int | None = None


def run_folders(work_dir: str | Path) -> list[Path]:
    """The runs in ``work_dir``, oldest first."""
    return sorted(run for run in Path(work_dir).glob('*') if run.is_dir() and TIMESTAMP.fullmatch(run.name))


def scalar_files(run: Path) -> list[Path]:
    """Where the scalars of ``run`` may be, the likeliest first: its visualizer's folder, then the logger's own file."""
    likely = run / 'vis_data' / 'scalars.json'
    files = [likely, *sorted((run / 'vis_data').glob('*.json')), run / f'{run.name}.json']
    return [file for number, file in enumerate(files) if file.is_file() and file not in files[:number]]


def read_run_log(run: Path) -> RunLog | None:
    """The scalars of the run; None if it did not log any while training (a test, or a start that failed).

    Raises:
        ValueError: If a line of the log is damaged. The last line may be, if the run was killed; it is left out then.
    """
    for file in scalar_files(run):
        log = _sorted_entries(run, json_lines(file))
        if log.training:
            return log
    return None


def json_lines(log: Path) -> Iterator[dict]:
    """The objects in ``log``, one a line.

    Raises:
        ValueError: If a line is damaged, unless it is the last.
    """
    lines = log.read_text(encoding='utf-8').splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            yield json.loads(line)
        except json.JSONDecodeError as error:
            if number < len(lines):
                raise ValueError(f'line {number} of {log} is damaged: {line[:60]!r}; remove it') from error


def is_evaluation(entry: dict) -> bool:
    """Whether a line is a validation's: only training lines have the iteration, and validations the mean times besides."""
    return 'iter' not in entry and any(name == 'time' or name.startswith('val/') for name in entry)


def _sorted_entries(run: Path, entries: Iterator[dict]) -> RunLog:
    training: list[tuple[int, dict[str, Number]]] = []
    evaluations: list[Evaluation] = []
    for entry in entries:
        if not isinstance(entry, dict) or 'step' not in entry:  # a test's line has no step
            continue
        values = {
            name.removeprefix('train/').removeprefix('val/'): value
            for name, value in entry.items()
            if name != 'step' and isinstance(value, (int, float)) and not isinstance(value, bool)
        }
        if is_evaluation(entry):
            evaluations.append(Evaluation(entry['step'], training[-1][0] if training else 0, values))
        else:
            training.append((entry['step'], values))
    return RunLog(run, tuple(training), tuple(evaluations))


def read_text_log(run: Path) -> TextLog:
    """What the text log of ``run`` says; all of it unknown if there is none."""
    path = run / f'{run.name}.log'
    if not path.is_file():
        return TextLog()
    text = path.read_text(encoding='utf-8', errors='replace')
    world_size, lengths = WORLD_SIZE.search(text), EPOCH_LENGTH.findall(text)
    return TextLog(
        _environment(text), tuple(_plan_rows(text)), int(world_size[1]) if world_size else None, int(lengths[-1]) if lengths else None
    )


def _environment(text: str) -> str:
    _, found, after = text.partition(f'{RULE}\nSystem environment:\n')
    return 'System environment:\n' + after.partition(f'\n{RULE}')[0] if found else ''


def _plan_rows(text: str) -> Iterator[tuple[str, str]]:
    for line in text.rpartition(TITLE)[2].splitlines()[1:] if TITLE in text else []:
        if not line.startswith('  '):
            return
        name, _, value = line.strip().partition('  ')
        yield name, value.strip()
