"""The distributions as a user gets them: an sdist of a copy of this checkout, a wheel of it unpacked, the wheel installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SMALL_DATA = (  # commands of the package that make four samples for the demo
    'create-synthetic-nuscenes --out data/synthetic_nuscenes --scenes 2 --samples-per-scene 2 --image-scale 0.25'.split(),
    'prepare-nuscenes data/synthetic_nuscenes --version v1.0-mini'.split(),
)
SOURCES = (
    '.ci',
    '.github',
    'benchmarks',
    'bevfusion_plugin',
    'configs',
    'docs',
    'requirements',
    'tests',
    'tools',
)  # not environments, data, runs


@dataclass
class Distributions:
    """Where they lie: the sdist unpacked, the wheel, and the folder that the wheel is installed in."""

    sources: Path
    wheel: Path
    installed: Path

    def run(self, cwd: Path, *command: str) -> subprocess.CompletedProcess:
        """Run the installed ``bevfusion`` in ``cwd``, on the installed package: it goes before the one under test."""
        environment = dict(os.environ, PYTHONPATH=str(self.installed), OMP_NUM_THREADS='1')
        command = (str(self.installed / 'bin' / 'bevfusion'), *command)
        return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def quietly(*command: str, cwd: Path) -> None:
    """Run a command of this Python; its output belongs to the error if it fails."""
    done = subprocess.run([sys.executable, *command], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, f'{" ".join(command)}:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}'


def build(folder: Path) -> Distributions:
    """Build all of it below ``folder``, without the network and with the setuptools that is here."""
    copy, out, installed = folder / 'copy', folder / 'out', folder / 'installed'
    for name in SOURCES:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns('__pycache__'))
    for file in ROOT.iterdir():
        if file.is_file():
            shutil.copy2(file, copy)
    quietly('-c', f'from setuptools.build_meta import build_sdist; build_sdist({str(out)!r})', cwd=copy)
    (sdist,) = out.glob('*.tar.gz')
    with tarfile.open(sdist) as archive:
        archive.extractall(folder)
    sources = folder / sdist.name.removesuffix('.tar.gz')
    pip = ('-m', 'pip', '--disable-pip-version-check')
    quietly(*pip, 'wheel', '--no-deps', '--no-build-isolation', '-w', str(out), str(sources), cwd=folder)
    (wheel,) = out.glob('*.whl')
    quietly(*pip, 'install', '--no-deps', '--no-index', '--target', str(installed), str(wheel), cwd=folder)
    return Distributions(sources, wheel, installed)
