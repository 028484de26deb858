"""A disk that is full when a checkpoint is written."""

import shutil
import subprocess

import pytest

from bevfusion_plugin.engine.checkpoints.resuming import resumable_fault


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MB."""
    folder = tmp_path / 'disk'
    folder.mkdir()
    mount = ['mount', '-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', str(folder)]
    if shutil.which('mount') is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip('may not mount a file system here')
    yield folder
    subprocess.run(['umount', '-l', str(folder)], check=True)


def test_a_full_disk_ends_the_run_by_name_and_the_old_checkpoint_resumes(train, small_disk, assert_same_end, capsys):
    work_dir = small_disk / 'work'
    fill = {'default_hooks.fill.type': 'faulty_trainings.FillDiskHook'}
    assert train(work_dir, '--seed', '0', **fill) == 1
    text = capsys.readouterr().err
    assert f'{work_dir}/epoch_2.pth (' in text and 'No space left on device' in text and 'go on with --resume' in text
    assert 'Traceback' not in text
    assert resumable_fault(work_dir / 'epoch_1.pth') is None and not list(work_dir.glob('*.unfinished'))
    (work_dir / 'filler').unlink()
    assert train(work_dir, '--resume') == 0
    assert_same_end(work_dir)
