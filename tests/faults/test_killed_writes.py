"""SIGKILL inside the writing of a checkpoint, with ``max_keep_ckpts=1``: the run resumes and ends with the same weights."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from faulty_trainings import MOMENTS

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize('moment', MOMENTS)
def test_a_run_killed_inside_a_write_resumes_and_ends_with_the_same_weights(train, tmp_path, moment, assert_same_end):
    work_dir = tmp_path / 'work'
    path = os.pathsep.join(map(str, (ROOT, ROOT / 'tests' / 'stand_ins')))
    killed = subprocess.run(
        [
            sys.executable,
            str(ROOT / 'tests' / 'stand_ins' / 'faulty_trainings.py'),
            'epoch_2.pth',
            moment,
            str(train.config),
            '--work-dir',
            str(work_dir),
            '--seed',
            '0',
        ],
        env=dict(os.environ, PYTHONPATH=path, OMP_NUM_THREADS='1'),
        capture_output=True,
        text=True,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-3000:]
    assert (work_dir / 'epoch_1.pth').exists() and (work_dir / 'epoch_2.pth').exists() == (moment == MOMENTS[2])
    assert train(work_dir, '--resume') == 0
    assert_same_end(work_dir)
    assert not list(work_dir.glob('*.unfinished')) and not (work_dir / 'epoch_2.pth').exists()
