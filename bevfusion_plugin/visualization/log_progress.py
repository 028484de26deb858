"""Progress bars drawn from the lines that MMEngine logs."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

STEP = re.compile(r'(?:Epoch|Iter)\((\w+)\) +(?:\[ *(\d+)\])?\[ *(\d+)/(\d+)\]')
REMAINING = re.compile(r' eta: (\d[\w :,]*:\d\d)')
LOSS = re.compile(r' loss: (\S+)')
PHASES = dict(train='training', val='evaluation', test='evaluation')


@dataclass(frozen=True)
class LoggedStep:
    """Where a run has got to: 'training, epoch 2' or 'evaluation', step ``done`` of ``total``, and what is worth a look."""

    phase: str
    done: int
    total: int
    note: str


def read_step(line: str) -> LoggedStep | None:
    """The step that a line of MMEngine's log reports; None if it reports none."""
    found = STEP.search(line)
    if found is None:
        return None
    phase, epoch, done, total = found.groups()
    name = PHASES.get(phase, phase) + (f', epoch {epoch}' if phase == 'train' and epoch else '')
    wanted = [('loss', LOSS)] + [('training ends in', REMAINING)] * (phase == 'train')
    notes = [f'{title} {value[1]}' for title, pattern in wanted if (value := pattern.search(line))]
    return LoggedStep(name, int(done), int(total), ', '.join(notes))


def draw_progress(lines: Iterable[str], console: Console) -> list[str]:
    """Draw a bar for every phase of the run whose log lines come in, until they end; returns the lines."""
    columns = (
        TextColumn('{task.description:<18}'),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn('{task.fields[note]}'),
    )
    bars: dict[str, TaskID] = {}
    seen = []
    with Progress(*columns, console=console) as progress:
        for line in lines:
            seen.append(line)
            step = read_step(line)
            if step is not None:
                if step.phase not in bars:
                    bars[step.phase] = progress.add_task(step.phase, note='')
                progress.update(bars[step.phase], completed=step.done, total=step.total, note=step.note)
    return seen
