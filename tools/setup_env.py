"""Makes the virtual environment that `make demo` and `make test` use: checks the machine, then installs what is missing.

Example:
    python3 tools/setup_env.py --venv .venv

Standard library only. Each step is skipped when it has been done with the same requirement files.
"""
from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REQUIREMENTS = ROOT / 'requirements'
CONSTRAINTS = REQUIREMENTS / 'constraints.txt'
PYTHONS = ((3, 10), (3, 12))


class SetupError(Exception):
    """The machine lacks something; the message says what and how to get it."""


def check_host(version: tuple[int, int], compiler: str | None, header: Path) -> None:
    """Raise SetupError if Python's version, the C++ compiler or the Python headers do not serve."""
    if not PYTHONS[0] <= version <= PYTHONS[1]:
        raise SetupError('Python 3.10 to 3.12 is needed, this is {}.{}; pass another one: make PYTHON=python3.11 ...'
                         .format(*version))
    missing = [] if compiler else ['g++']
    missing += [] if header.is_file() else [f'the Python headers ({header})']
    if missing:
        raise SetupError(f'{" and ".join(missing)} not found; mmcv is compiled once and needs them. On Debian or Ubuntu:\n'
                         f'    sudo apt-get install g++ python{version[0]}.{version[1]}-dev python{version[0]}.{version[1]}-venv')


def step_is_done(stamp: Path, key: str) -> bool:
    """Whether this step was finished with the same inputs."""
    return stamp.is_file() and stamp.read_text() == key


def requirement_key(*files: Path) -> str:
    """Checksum of the files' contents."""
    return hashlib.sha256(b'\0'.join(file.read_bytes() for file in files)).hexdigest()


def run(command: list[str], **kwargs) -> None:
    """Run a command, or raise SetupError naming it."""
    result = subprocess.run(command, **kwargs)
    if result.returncode:
        raise SetupError(f'this command failed with status {result.returncode}:\n    {" ".join(command)}')


def pip_install(python: Path, *args: str) -> None:
    """pip install under the constraints."""
    run([str(python), '-m', 'pip', 'install', '--disable-pip-version-check', '-q', '-c', str(CONSTRAINTS), *args])


def install_mmcv(python: Path) -> None:
    """mmcv with its operators: from pip's cache, or compiled (about 12 minutes on 2 cores)."""
    print('  compiling mmcv once (about 12 minutes on 2 cores, seconds when it is in pip\'s cache)', flush=True)
    build_mmcv(python)
    if not has_mmcv_ops(python):  # a wheel cached by a build without operators, or for another torch
        build_mmcv(python, '--no-cache-dir', '--force-reinstall')
    if not has_mmcv_ops(python):
        raise SetupError(f'mmcv was installed, but `{python} -c "import mmcv.ops"` fails; run it to see why')


def has_mmcv_ops(python: Path) -> bool:
    """Whether mmcv's compiled operators can be imported."""
    return subprocess.run([str(python), '-c', 'import mmcv.ops'], capture_output=True).returncode == 0


def build_mmcv(python: Path, *options: str) -> None:
    """pip install mmcv from source, with a progress line; the whole output goes to a log beside the environment."""
    log = python.parents[1] / 'mmcv_build.log'
    command = [str(python), '-m', 'pip', 'install', '-v', '--disable-pip-version-check', '--no-deps',
               '--no-build-isolation', '-c', str(CONSTRAINTS), *options, 'mmcv']
    env = {**os.environ, 'MMCV_WITH_OPS': '1', 'PATH': f'{python.parent}{os.pathsep}{os.environ["PATH"]}'}
    began = time.monotonic()
    with log.open('w') as out, subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                                text=True) as process:
        for line in process.stdout:
            out.write(line)
            done = re.match(r'\s*\[(\d+)/(\d+)\]', line)
            if done:
                minutes = (time.monotonic() - began) / 60
                print(f'\r  mmcv: {done[1]}/{done[2]} files, {minutes:.1f} min', end='', flush=True)
    print(flush=True)
    if process.returncode:
        tail = ''.join(log.read_text().splitlines(keepends=True)[-15:])
        raise SetupError(f'compiling mmcv failed; the end of {log}:\n{tail}')


def steps(python: Path) -> list[tuple[str, tuple[Path, ...], Callable[[], None]]]:
    """Name, requirement files and action of each step, in order."""
    build, runtime, openmmlab, test = (REQUIREMENTS / f'{name}.txt' for name in ('build', 'runtime', 'openmmlab', 'test'))
    return [
        ('torch and the build tools', (build,), lambda: pip_install(python, '-r', str(build))),
        ('libraries', (runtime, test), lambda: pip_install(python, '-r', str(runtime), '-r', str(test))),
        ('OpenMMLab and devkits', (openmmlab,), lambda: pip_install(python, '--no-deps', '-r', str(openmmlab))),
        ('mmcv', (build,), lambda: install_mmcv(python)),
        ('bevfusion_plugin', (ROOT / 'setup.py',),
         lambda: pip_install(python, '--no-deps', '--no-build-isolation', '-e', str(ROOT))),
    ]


def make_environment(venv: Path) -> None:
    """Create ``venv`` and run the steps that are not done."""
    python = venv / 'bin' / 'python'
    if not python.is_file():
        print(f'creating {venv}', flush=True)
        run([sys.executable, '-m', 'venv', str(venv)])
    for number, (name, files, action) in enumerate(steps(python)):
        stamp, key = venv / f'.step{number}', requirement_key(CONSTRAINTS, *files)
        if step_is_done(stamp, key):
            continue
        print(f'installing {name}', flush=True)
        action()
        stamp.write_text(key)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--venv', type=Path, default=ROOT / '.venv', help='where the environment lies (default: .venv)')
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 when the environment is ready, 1 with the reason when the machine lacks something."""
    args = parse_args(argv)
    try:
        check_host(sys.version_info[:2], shutil.which('g++'), Path(sysconfig.get_path('include')) / 'Python.h')
        make_environment(args.venv.resolve())
    except SetupError as error:
        print(f'set-up: {error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
