"""What the command lines of all tools have in common: a config, how many GPUs, and how a user's mistake ends."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mmengine.config import DictAction


class UsageError(ValueError):
    """What a user has to correct; the message says what was wrong, what was got and how to mend it."""


@contextmanager
def user_errors() -> Iterator[None]:
    """Within ``with user_errors():`` a bad value, a missing file and a missing package are the user's to correct.

    Raises:
        UsageError: In place of ``ValueError``, ``OSError`` and ``ImportError``, with the same message.
    """
    try:
        yield
    except (ValueError, OSError, ImportError) as error:
        raise UsageError(str(error)) from error


def tool(main: Callable[[list[str] | None], int]) -> Callable[..., int]:
    """Decorator of a tool's ``main``: a :class:`UsageError` goes to stderr, without a traceback, and the exit status is 2."""

    @functools.wraps(main)
    def run(argv: list[str] | None = None) -> int:
        try:
            return main(argv)
        except UsageError as error:
            print(error, file=sys.stderr)
            return 2

    return run


def tool_parser(doc: str) -> argparse.ArgumentParser:
    """A parser whose help is a tool's docstring as it stands, examples and all."""
    return argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)


class KeyValueAction(DictAction):
    """MMEngine's ``key=value`` pairs; what is no pair is named instead of a traceback."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None) -> None:
        """Enter the pairs."""
        for value in values:
            if not value.partition('=')[0].strip() or '=' not in value:
                parser.error(f'{option} takes key=value pairs, got {value!r}; write for example train_cfg.max_epochs=6')
        super().__call__(parser, namespace, values, option)


def add_cfg_options(parser: argparse.ArgumentParser, whose: str = 'the config') -> None:
    """Add ``--cfg-options``."""
    parser.add_argument('--cfg-options', nargs='+', action=KeyValueAction, help=f'key=value pairs that override {whose}')


def add_gpus(parser: argparse.ArgumentParser, meaning: str) -> None:
    """Add ``--gpus``."""
    parser.add_argument('--gpus', type=int, help=meaning)


def add_launcher(parser: argparse.ArgumentParser) -> None:
    """Add ``--launcher``, and the rank that ``torch.distributed.launch`` hands on as a flag."""
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)


def at_least_one(args: argparse.Namespace, *flags: str) -> None:
    """Refuse a number below 1 under any of ``flags`` (as written on the command line) that was given.

    Raises:
        UsageError: Naming the flag and the number.
    """
    for flag in flags:
        value = getattr(args, flag.removeprefix('--').replace('-', '_'))
        if value is not None and value < 1:
            raise UsageError(f'{flag} must be >= 1, got {value}')
