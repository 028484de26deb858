"""Two processes that create a synthetic nuScenes in one folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bevfusion_plugin.synthetic_nuscenes import Settings, create_synthetic_nuscenes, is_complete

ROOT = Path(__file__).parents[2]
TINY = Settings(scenes=2, samples_per_scene=2, image_scale=0.1, sweeps=0, azimuth_steps=180)
ARGUMENTS = '--scenes 2 --samples-per-scene 2 --image-scale 0.1 --sweeps 0 --azimuth-steps 180 --workers 2 --out'.split()


class Generator:
    """One process; its output is read line by line, stderr in it."""

    def __init__(self, script, *arguments):
        paths = os.pathsep.join([str(ROOT), str(ROOT / 'tests' / 'stand_ins')])
        self.process = subprocess.Popen(
            [sys.executable, str(script), *map(str, arguments)],
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(os.environ, PYTHONPATH=paths, OMP_NUM_THREADS='1'),
        )

    def read_until(self, text):
        """Its output up to a line with ``text``."""
        lines = ''
        for line in self.process.stdout:
            lines += line
            if text in line:
                return lines
        raise AssertionError(f'no {text!r} in {lines}')

    def rest(self):
        """What it still says, its workers included, up to their end, and its status."""
        return self.process.communicate(timeout=120)[0], self.process.returncode


@pytest.fixture
def two(tmp_path):
    """The first generator, which stands still in the middle, and the second one, which has noticed it."""
    out = tmp_path / 'nuscenes'
    first = Generator(ROOT / 'tests/stand_ins/held_generator.py', tmp_path / 'go', *ARGUMENTS, out)
    first.read_until('stands still')
    second = Generator(ROOT / 'tools/create_synthetic_nuscenes.py', *ARGUMENTS, out)
    said = second.read_until('waiting for it')
    assert f'{out} is in use by the synthetic nuScenes of process {first.process.pid}' in said
    yield first, second, out
    for each in (first, second):
        each.process.kill()
        each.rest()


def equal_to_one_made_alone(out, tmp_path):
    create_synthetic_nuscenes(tmp_path / 'alone', TINY)
    files = [
        {path.relative_to(root): path.read_bytes() for path in root.rglob('*') if path.is_file()} for root in (out, tmp_path / 'alone')
    ]
    return is_complete(out, TINY) and files[0] == files[1]


def test_the_second_waits_and_finds_the_whole_set(two, tmp_path):
    first, second, out = two
    (tmp_path / 'go').touch()
    (text, status), (found, second_status) = first.rest(), second.rest()
    assert status == second_status == 0 and '4 samples in 2 scenes written' in text
    assert '4 samples in 2 scenes were there already' in found and equal_to_one_made_alone(out, tmp_path)


def test_the_second_makes_the_set_of_a_killed_first_whose_workers_end_too(two, tmp_path):
    first, second, out = two
    first.process.kill()
    first.rest()  # its pipe ends when its workers have ended
    made, status = second.rest()
    assert status == 0 and '4 samples in 2 scenes written' in made and equal_to_one_made_alone(out, tmp_path)
