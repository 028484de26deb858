"""SIGKILL at random moments of a run that saves at the end of every window: it resumes and ends with the same weights."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from faulty_trainings import INSIDE_CONFIG

ROOT = Path(__file__).parents[2]
NEVER = 600
SCRIPT = ROOT / 'tests' / 'stand_ins' / 'faulty_trainings.py'


def run(config, work_dir, seconds, *arguments):
    path = os.pathsep.join(map(str, (ROOT, ROOT / 'tests' / 'stand_ins')))
    with open(work_dir.parent / 'log', 'w') as log:  # no pipe: workers outlive a killed run by seconds and would hold it open
        ended = subprocess.run(
            [sys.executable, str(SCRIPT), 'after', str(seconds), str(config), '--work-dir', str(work_dir), *arguments],
            env=dict(os.environ, PYTHONPATH=path, OMP_NUM_THREADS='1'),
            stdout=log,
            stderr=log,
        )
    expected = (0,) if seconds == NEVER else (0, -signal.SIGKILL)
    assert ended.returncode in expected, (work_dir.parent / 'log').read_text()[-3000:]
    return ended.returncode == 0


def weights(work_dir):
    content = torch.load(work_dir / 'epoch_3.pth', weights_only=True)
    return {**content['state_dict'], **{f'ema.{name}': value for name, value in content['ema_state_dict'].items()}}


@pytest.mark.parametrize('kills', [3, pytest.param(20, marks=pytest.mark.slow)])
def test_a_run_killed_at_random_moments_ends_with_the_uninterrupted_runs_weights(kills, tmp_path):
    config = tmp_path / 'inside.py'
    config.write_text(INSIDE_CONFIG)
    run(config, tmp_path / 'whole', NEVER, '--seed', '0')
    moments, killed, started = random.Random(kills), 0, ['--seed', '0']
    while killed < kills:  # a run that ends before its moment makes room for another
        work_dir = tmp_path / f'killed_after_{killed}'
        for _ in range(kills):
            if run(config, work_dir, moments.uniform(0.02, 0.8), *started):
                break
            killed, started = killed + 1, ['--resume', '--seed', '0']
        run(config, work_dir, NEVER, '--resume', '--seed', '0')
        for name, value in weights(tmp_path / 'whole').items():
            assert torch.equal(weights(work_dir)[name], value), name
