"""Runs formulations of one computation, each in a process of its own, and prints time, memory and agreement."""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

Computation = Callable[[], list[Tensor]]


class Measured(NamedTuple):
    """What one formulation took and gave."""

    seconds: float  # the best of all repeats
    gigabytes: float  # highest memory during the computation, less that of its inputs
    results: list[Tensor]


def parse_args(description: str) -> argparse.Namespace:
    """Options that all side-by-side benchmarks take."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--threads', type=int, default=2, help='threads of PyTorch')
    parser.add_argument('--repeats', type=int, default=4, help='runs of each formulation; the best one counts')
    return parser.parse_args()


def compare(title: str, formulations: dict[str, Callable[..., Computation]], args: argparse.Namespace, **setup_args) -> None:
    """Measure every formulation and print a table; ratios are to the first one.

    Args:
        title: Title of the table.
        formulations: For each name a function of a module that prepares the inputs and returns the computation.
        args: From ``parse_args``.
        **setup_args: Passed to these functions.
    """
    table = Table('formulation', 'seconds', 'ratio', 'GB', 'ratio', 'difference', title=title)
    first = None
    for name, setup in formulations.items():
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context('spawn')) as pool:
            measured = pool.submit(measure, setup, args.threads, args.repeats, setup_args).result()
        first = first or measured
        difference = max((ours - theirs).abs().max() / theirs.abs().max() for ours, theirs in zip(measured.results, first.results))
        table.add_row(
            name,
            f'{measured.seconds:.3f}',
            f'{measured.seconds / first.seconds:.2f}',
            f'{measured.gigabytes:.2f}',
            f'{measured.gigabytes / first.gigabytes:.2f}',
            f'{difference:.1e}',
        )
    Console().print(table)


def measure(setup: Callable[..., Computation], threads: int, repeats: int, setup_args: dict) -> Measured:
    """Run one formulation in this process."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    compute = setup(**setup_args)
    before = int(Path('/proc/self/statm').read_text().split()[1]) * resource.getpagesize() / 1e9
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        results = compute()
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return Measured(min(seconds), peak - before, [result.detach().flatten()[::101].clone() for result in results])
