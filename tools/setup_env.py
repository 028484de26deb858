"""Installs what this package trains with: into an environment of its own (`make`), or into the one that runs this file.

Example:
    python3 tools/setup_env.py --venv .venv
    python tools/setup_env.py --here     # beside the torch that is there, which stays

Standard library only, and nothing is compiled. In an environment of its own each step is skipped when it has been done
with the same requirement files.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REQUIREMENTS = ROOT / 'requirements'
CONSTRAINTS = REQUIREMENTS / 'constraints.txt'
TORCH, RUNTIME, NO_DEPS, TEST = (REQUIREMENTS / f'{name}.txt' for name in ('torch', 'runtime', 'no_deps', 'test'))
IS_CHECKOUT = (ROOT / 'pyproject.toml').is_file()  # no: this file is the installed package's own
PYTHONS = ((3, 10), (3, 13))


class SetupError(Exception):
    """The machine lacks something; the message says what and how to get it."""


def check_python(version: tuple[int, int]) -> None:
    """Raise SetupError if this version of Python does not serve."""
    if not PYTHONS[0] <= version <= PYTHONS[1]:
        raise SetupError(
            'Python 3.10 to 3.13 is needed, this is {}.{}; take another one, such as: make PYTHON=python3.11 ...'.format(*version)
        )


def step_is_done(stamp: Path, key: str) -> bool:
    """Whether this step was finished with the same inputs."""
    return stamp.is_file() and stamp.read_text() == key


def requirement_key(*files: Path) -> str:
    """Checksum of the files' contents."""
    return hashlib.sha256(b'\0'.join(file.read_bytes() for file in files)).hexdigest()


def run(command: list[str]) -> None:
    """Run a command, or raise SetupError naming it."""
    result = subprocess.run(command)
    if result.returncode:
        raise SetupError(f'this command failed with status {result.returncode}:\n    {" ".join(command)}')


def pip_install(python: Path, *args: str) -> None:
    """pip install under the constraints."""
    run([str(python), '-m', 'pip', 'install', '--disable-pip-version-check', '-q', '-c', str(CONSTRAINTS), *args])


def installed_version(python: Path, package: str) -> str | None:
    """Version of a package in the environment of ``python``; None where it is not installed."""
    code = f'import importlib.metadata; print(importlib.metadata.version({package!r}))'
    return subprocess.run([str(python), '-c', code], capture_output=True, text=True).stdout.strip() or None


def kept_versions(torch: str | None, numpy: str | None) -> list[str]:
    """Requirements that keep the torch that is installed, and a numpy that it and the packages beside it can read.

    Args:
        torch: Its installed version, if any.
        numpy: The same. A 1 stays a 1: what was compiled for it cannot read a 2.

    Raises:
        SetupError: If there is no torch.
    """
    if torch is None:
        raise SetupError(
            'there is no torch in this environment; install the one for your GPU first (pytorch.org), such as:\n    pip install torch'
        )
    release = tuple(int(number) for number in re.findall(r'\d+', torch)[:2])
    needs_numpy_1 = release < (2, 3) or (numpy or '').startswith('1.')  # torch below 2.3 was built for numpy 1
    return [f'torch=={torch}', *(['numpy<2'] if needs_numpy_1 else [])]


def packages_without_dependencies(compiled_mmcv: str | None) -> list[str]:
    """The lines of no_deps.txt; a compiled mmcv that is installed stays in mmcv-lite's place, which has the same files."""
    lines = [line.partition('#')[0].strip() for line in NO_DEPS.read_text().splitlines()]
    return [line for line in lines if line and not (compiled_mmcv and line == 'mmcv-lite')]


def steps(python: Path, torch: list[str], *more: str) -> list[tuple[str, tuple[Path, ...], Callable[[], None]]]:
    """Name, requirement files and action of each step, in order.

    Args:
        python: The environment's.
        torch: pip's arguments for torch and numpy.
        more: pip's arguments for what this package does not need.
    """
    chosen = [
        ('torch and libraries', (TORCH, RUNTIME, TEST), lambda: pip_install(python, *torch, '-r', str(RUNTIME), *more)),
        (
            'MMEngine, mmdet3d and devkits',
            (NO_DEPS,),
            lambda: pip_install(python, '--no-deps', *packages_without_dependencies(installed_version(python, 'mmcv'))),
        ),
    ]
    if IS_CHECKOUT:
        chosen.append(
            (
                'bevfusion_plugin',
                (ROOT / 'setup.py', ROOT / 'pyproject.toml'),
                lambda: pip_install(python, '--no-deps', '--no-build-isolation', '-e', str(ROOT)),
            )
        )
    return chosen


def make_environment(venv: Path) -> None:
    """Create ``venv`` and run the steps that are not done."""
    python = venv / 'bin' / 'python'
    if not python.is_file():
        print(f'creating {venv}', flush=True)
        run([sys.executable, '-m', 'venv', str(venv)])
    for number, (name, files, action) in enumerate(steps(python, ['-r', str(TORCH)], '-r', str(TEST))):
        stamp, key = venv / f'.step{number}', requirement_key(CONSTRAINTS, *files)
        if step_is_done(stamp, key):
            continue
        print(f'installing {name}', flush=True)
        action()
        stamp.write_text(key)


def complete_environment(python: Path) -> None:
    """Run all steps in an environment that has its torch. pip leaves what serves as it is."""
    kept = kept_versions(installed_version(python, 'torch'), installed_version(python, 'numpy'))
    for name, _, action in steps(python, kept):
        print(f'installing {name}', flush=True)
        action()


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = parser.add_mutually_exclusive_group()
    where.add_argument('--venv', type=Path, default=ROOT / '.venv', help='where the environment lies (default: .venv)')
    where.add_argument('--here', action='store_true', help='into the environment of this Python, whose torch is kept')
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 when the environment is ready, 1 with the reason when the machine lacks something."""
    args = parse_args(argv)
    try:
        check_python(sys.version_info[:2])
        if not (args.here or IS_CHECKOUT):
            raise SetupError('an installed bevfusion_plugin completes the environment that it is in; add --here')
        if args.here:
            complete_environment(Path(sys.executable))
        else:
            make_environment(args.venv.resolve())
    except SetupError as error:
        print(f'set-up: {error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
