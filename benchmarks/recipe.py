"""Does the training recipe matter? The same small detector and data, thirteen recipes, three seeds each, at the reference's best LR.

    python benchmarks/recipe.py                 # some hours on 2 cores; stopped and called again, it goes on
    python benchmarks/recipe.py --page-only     # write docs/recipe.md and its figure anew from the finished runs

First the reference batch is trained with several learning rates, then everything with the best of them: a seed of all recipes, then the
next. A finished run leaves a small file in benchmarks/recipe_runs/, and is not trained again where that file is, on any machine. The
data are made where they are missing (minutes).
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path

from batch_study.page import write_page
from batch_study.records import COMMIT, Run, best_lr, commit, read_records, record_of, scored_epochs
from batch_study.scores import SCORES
from batch_study.variants import FOLDERS, SWEEP, VARIANTS, recipe_config
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

ROOT = Path(__file__).resolve().parents[1]
SEEDS = 3
CONTINUES = {'k': 'j'}  # recipes whose first epochs are all of another


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', type=Path, default=ROOT / 'data' / 'recipe', help='where the synthetic data are, or go')
    parser.add_argument('--work-dir', type=Path, default=ROOT / 'work_dirs' / 'recipe', help='where unfinished runs are kept')
    parser.add_argument('--jobs', type=int, default=os.cpu_count(), help='runs at a time, each with its share of the cores')
    parser.add_argument('--page-only', action='store_true', help='train nothing')
    return parser.parse_args(argv)


def make_data(data: Path) -> None:
    """Write the synthetic data sets that are missing in ``data``: lidar as in the demo, images as small as can be."""
    for seed in range(FOLDERS):
        folder = data / str(seed)
        if not (folder / 'nuscenes_infos_val.pkl').is_file():
            for command in (
                (
                    'create_synthetic_nuscenes.py',
                    '--out',
                    str(folder),
                    '--seed',
                    str(seed),
                    '--image-scale',
                    '0.05',
                    '--sweeps',
                    '0',
                    '--azimuth-steps',
                    '360',
                ),
                ('prepare_nuscenes.py', str(folder), '--version', 'v1.0-mini'),
            ):
                subprocess.run([sys.executable, str(ROOT / 'tools' / command[0]), *command[1:]], check=True)


def begin(args: argparse.Namespace, run: Run) -> Path:
    """The run's folder with its config; one that was begun keeps the config and the commit it began with.

    A run that continues another begins with a copy of it, where that one is finished.
    """
    folder = args.work_dir.resolve() / run.name
    path = folder / 'config.py'
    if not path.exists():
        earlier = args.work_dir / replace(run, letter=CONTINUES.get(run.letter, run.letter)).name
        if (earlier / 'finished').exists():
            shutil.copytree(earlier, folder, ignore=shutil.ignore_patterns('finished', path.name, SCORES, 'scoring'))
        folder.mkdir(parents=True, exist_ok=True)
        recipe_config(run.variant, str(args.data.resolve()), run.lr).dump(str(path))
        (folder / COMMIT).write_text(commit())
    return folder


def finish(args: argparse.Namespace, run: Run) -> None:
    """Train one run to its end, or go on with it, score it and leave its record.

    Raises:
        RuntimeError: If it fails; the message names its log.
    """
    folder = begin(args, run)
    if not (folder / 'finished').exists():
        call(
            args,
            folder,
            str(ROOT / 'tools' / 'train.py'),
            str(folder / 'config.py'),
            '--work-dir',
            str(folder),
            '--seed',
            str(run.seed),
            '--resume',
            '--no-doctor',
        )  # it would refuse the recipes that are here to fail
        (folder / 'finished').touch()
    if not (folder / SCORES).exists():
        call(args, folder, '-m', 'batch_study.scores', str(folder), '--epochs', *map(str, scored_epochs(run.variant)))
    record_of(run, folder).write(run.path)


def call(args: argparse.Namespace, folder: Path, *command: str) -> None:
    """Run a Python program with its share of the cores; its output goes to the run's folder.

    Raises:
        RuntimeError: If it leaves with a status other than 0.
    """
    threads = max(1, os.cpu_count() // args.jobs)
    with (folder / 'output.txt').open('a') as output:
        status = subprocess.run(
            [sys.executable, *command],
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=ROOT / 'benchmarks',
            env=dict(os.environ, OMP_NUM_THREADS=str(threads)),
        ).returncode
    if status:
        raise RuntimeError(f'{command[0]} left {folder} with status {status}; see output.txt there')


def train_all(args: argparse.Namespace, runs: Sequence[Run]) -> list[str]:
    """Train those of ``runs`` that have no record, ``args.jobs`` at a time; messages of those that failed."""
    columns = TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    missing = [run for run in runs if not run.path.exists()]
    failures = []
    with Progress(*columns) as progress, ThreadPoolExecutor(args.jobs) as pool:
        task = progress.add_task('runs', total=len(missing))
        for future in as_completed([pool.submit(finish, args, run) for run in missing]):
            if future.exception() is not None:
                failures.append(str(future.exception()))
            progress.advance(task)
    return failures


def sweep() -> list[Run]:
    """The reference batch with each learning rate."""
    return [Run('a', lr, 0) for lr in SWEEP]


def comparison(lr: float) -> list[Run]:
    """All recipes at ``lr``, a seed after the other; those that continue another come last."""
    letters = sorted((variant.letter for variant in VARIANTS), key=lambda letter: letter in CONTINUES)
    return [Run(letter, lr, seed) for seed in range(SEEDS) for letter in letters]


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 when every run is finished and the page written, 1 if a run failed."""
    args = parse_args(argv)
    failures = []
    if not args.page_only:
        make_data(args.data)
        failures = train_all(args, sweep()) or train_all(args, comparison(best_lr(read_records())))
    print(*failures, sep='\n', file=sys.stderr)
    print(write_page(ROOT / 'docs', read_records(), SEEDS))
    return int(bool(failures))


if __name__ == '__main__':
    sys.exit(main())
