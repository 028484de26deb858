"""What README tells a newcomer, done from an installed wheel in an empty folder."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from built_wheel import SMALL_DATA, build

MIM = shutil.which('mim', path=os.pathsep.join([str(Path(sys.executable).parent), os.environ['PATH']]))
ONE_EPOCH = ('train_cfg.max_epochs=1', 'param_scheduler.0.end=1')


@pytest.fixture(scope='module')
def built(tmp_path_factory):
    return build(tmp_path_factory.mktemp('distributions'))


@pytest.mark.slow
def test_the_demo_ends_with_the_report_page(built, tmp_path):
    done = built.run(tmp_path, 'demo')
    assert done.returncode == 0, done.stderr[-3000:]
    paths = dict(
        line.split(maxsplit=1) for line in done.stdout.splitlines() if line.startswith(('report ', 'curves ', 'pictures ', 'checkpoint '))
    )
    assert set(paths) == {'report', 'curves', 'pictures', 'checkpoint'}
    assert '</html>' in (tmp_path / paths['report']).read_text() and list((tmp_path / paths['pictures']).glob('*.png'))
    assert (tmp_path / paths['curves']).is_file() and (tmp_path / paths['checkpoint']).is_file()
    assert {path.name for path in tmp_path.iterdir()} == {'data', 'work_dirs'}


@pytest.mark.slow
@pytest.mark.skipif(
    MIM is None, reason='openmim is not in this environment, docs/installation.md says how it gets there; .ci/installed_wheel has it'
)
def test_mim_trains_the_packaged_config(built, tmp_path):
    for command in SMALL_DATA:
        done = built.run(tmp_path, *command)
        assert done.returncode == 0, done.stderr[-3000:]
    environment = dict(os.environ, PYTHONPATH=str(built.installed), CUDA_VISIBLE_DEVICES='', OMP_NUM_THREADS='1')
    done = subprocess.run(
        [
            MIM,
            'train',
            'bevfusion_plugin',
            'bevfusion_demo.py',
            '--work-dir',
            'work_dirs/mim',
            '--cfg-options',
            *ONE_EPOCH,
            'train_cfg.val_begin=9',
        ],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f'{done.stdout[-2000:]}\n{done.stderr[-3000:]}'
    assert (tmp_path / 'work_dirs' / 'mim' / 'epoch_1.pth').is_file()
