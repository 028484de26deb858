"""Does the training recipe matter? The same small detector, data and number of samples seen, eight recipes, three seeds each.

    python benchmarks/recipe.py                 # about an hour on 2 cores; stopped and called again, it goes on
    python benchmarks/recipe.py --page-only     # write docs/recipe.md and its figure anew from the runs that are there

Needs the demo's data (`make demo`, or tools/create_synthetic_nuscenes.py and tools/prepare_nuscenes.py).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from recipe_page import Run, commit, write_page
from recipe_scores import SCORES
from recipe_variants import VARIANTS, Variant, recipe_config
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

ROOT = Path(__file__).resolve().parents[1]
COMMIT = 'commit'  # file with the commit at which a run began


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', default=str(ROOT / 'data' / 'synthetic_nuscenes'), help='prepared synthetic nuScenes')
    parser.add_argument('--work-dir', default=str(ROOT / 'work_dirs' / 'recipe'), help='where the runs are kept')
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument('--variants', default=''.join(variant.letter for variant in VARIANTS), help='letters of those to run')
    parser.add_argument('--lr', type=float, default=4e-3, help='peak learning rate of the reference batch')
    parser.add_argument('--jobs', type=int, default=os.cpu_count(), help='runs at a time, each with its share of the cores')
    parser.add_argument('--page-only', action='store_true', help='train nothing')
    return parser.parse_args(argv)


def run_folder(args: argparse.Namespace, variant: Variant, seed: int) -> Path:
    """Where the run of ``variant`` with ``seed`` is kept."""
    return Path(args.work_dir).resolve() / f'lr_{args.lr:g}' / f'{variant.letter}_seed_{seed}'


def write_config(args: argparse.Namespace, variant: Variant, seed: int) -> None:
    """Write the config of a run, unless it has one: all runs of a page are those of the code that began it."""
    path = run_folder(args, variant, seed) / 'config.py'
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        recipe_config(variant, str(Path(args.data).resolve()), args.lr).dump(str(path))
        (path.parent / COMMIT).write_text(commit())


def finish(args: argparse.Namespace, variant: Variant, seed: int) -> None:
    """Train one run to its end, or go on with it, and score it.

    Raises:
        RuntimeError: If it fails; the message names its log.
    """
    folder = run_folder(args, variant, seed)
    if not (folder / 'finished').exists():
        call(
            args,
            folder,
            str(ROOT / 'tools' / 'train.py'),
            str(folder / 'config.py'),
            '--work-dir',
            str(folder),
            '--seed',
            str(seed),
            '--resume',
            '--no-doctor',
        )  # it would refuse the recipes that are here to fail
        (folder / 'finished').touch()
    if not (folder / SCORES).exists():
        call(args, folder, str(ROOT / 'benchmarks' / 'recipe_scores.py'), str(folder))


def call(args: argparse.Namespace, folder: Path, *command: str) -> None:
    """Run a Python program with its share of the cores; its output goes to the run's folder.

    Raises:
        RuntimeError: If it leaves with a status other than 0.
    """
    threads = max(1, os.cpu_count() // args.jobs)
    with (folder / 'output.txt').open('a') as output:
        status = subprocess.run(
            [sys.executable, *command], stdout=output, stderr=subprocess.STDOUT, env=dict(os.environ, OMP_NUM_THREADS=str(threads))
        ).returncode
    if status:
        raise RuntimeError(f'{command[0]} left {folder} with status {status}; see output.txt there')


def read_run(folder: Path, letter: str, seed: int) -> Run:
    """The losses that a finished run logged, its pieces joined where it was stopped and resumed, and its scores."""
    losses = {}
    for log in sorted(folder.glob('*/vis_data/scalars.json')):
        for line in log.read_text().splitlines():
            entry = json.loads(line)
            if 'loss' in entry:
                losses[entry['step']] = entry['loss']
    begun = min(path.name for path in folder.glob('[0-9]*_[0-9]*'))
    return Run(letter, seed, losses, json.loads((folder / SCORES).read_text()), begun[:8], (folder / COMMIT).read_text())


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 when every run is finished and the page written, 1 if a run failed."""
    args = parse_args(argv)
    if not (Path(args.data) / 'nuscenes_infos_train.pkl').is_file():
        sys.exit(f'{args.data} holds no prepared data set; run `make demo` once, or name one with --data')
    variants = [variant for variant in VARIANTS if variant.letter in args.variants]
    pairs = [(variant, seed) for seed in range(args.seeds) for variant in variants]  # whole rounds first
    failures = [] if args.page_only else train_all(args, pairs)
    print(*failures, sep='\n', file=sys.stderr)
    runs = [
        read_run(run_folder(args, variant, seed), variant.letter, seed)
        for variant, seed in pairs
        if (run_folder(args, variant, seed) / SCORES).exists()
    ]
    if not runs:
        sys.exit('no run is finished yet')
    print(write_page(ROOT / 'docs', variants, runs, args.lr))
    return int(bool(failures))


def train_all(args: argparse.Namespace, pairs: Sequence[tuple[Variant, int]]) -> list[str]:
    """Train all runs, ``args.jobs`` at a time; messages of those that failed."""
    columns = TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    failures = []
    for pair in pairs:
        write_config(args, *pair)
    with Progress(*columns) as progress, ThreadPoolExecutor(args.jobs) as pool:
        task = progress.add_task('runs', total=len(pairs))
        for future in as_completed([pool.submit(finish, args, *pair) for pair in pairs]):
            if future.exception() is not None:
                failures.append(str(future.exception()))
            progress.advance(task)
    return failures


if __name__ == '__main__':
    sys.exit(main())
