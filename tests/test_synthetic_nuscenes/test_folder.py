"""What may be written where: nothing is lost, nothing is half there."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from dataclasses import replace

import pytest

from bevfusion_plugin.synthetic_nuscenes import MARKER, Settings, create_synthetic_nuscenes, is_complete, required_bytes, writer

TINY = Settings(scenes=2, samples_per_scene=2, image_scale=0.1, sweeps=0, azimuth_steps=180)


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp('made') / 'nuscenes'
    create_synthetic_nuscenes(root, TINY)
    return root


@pytest.fixture
def whole(made, tmp_path):
    return shutil.copytree(made, tmp_path / 'whole')


@pytest.fixture
def no_work(monkeypatch):
    """Any simulation fails the test: errors must come before work starts."""

    def fail(*_):
        pytest.fail('work started')

    monkeypatch.setattr(writer, 'build_scene', fail)


@pytest.mark.parametrize(
    'name, value',
    [
        ('scenes', 0),
        ('scenes', 1),
        ('scenes', -3),
        ('scenes', 11),
        ('scenes', 2.5),
        ('samples_per_scene', 1),
        ('seed', -1),
        ('image_scale', 0),
        ('image_scale', 1.5),
        ('image_scale', float('nan')),
        ('sweeps', -1),
        ('sweeps', 10),
        ('azimuth_steps', 12),
    ],
)
def test_settings_out_of_range_name_themselves_and_the_value(name, value):
    with pytest.raises(ValueError, match=f'{name} must be .*, got {value}'):
        replace(TINY, **{name: value})


def test_workers_must_be_positive(tmp_path):
    with pytest.raises(ValueError, match='workers must be >= 1, got 0'):
        create_synthetic_nuscenes(tmp_path / 'new', TINY, workers=0)
    assert not (tmp_path / 'new').exists()


def test_a_whole_folder_is_used_again(whole, no_work):
    assert is_complete(whole) and is_complete(whole, TINY)
    assert not create_synthetic_nuscenes(whole, TINY)


def test_other_settings_need_overwrite(whole, no_work):
    before = sorted(whole.rglob('*'))
    with pytest.raises(FileExistsError, match='other settings.*--overwrite'):
        create_synthetic_nuscenes(whole, replace(TINY, seed=1))
    assert sorted(whole.rglob('*')) == before and is_complete(whole, TINY)


def test_overwrite_replaces_own_and_derived_files_and_leaves_the_others(whole):
    (whole / 'notes.txt').write_text('mine')
    (whole / 'nuscenes_infos_train.pkl').write_text('stale')
    (whole / 'nuscenes_gt_database').mkdir()
    (whole / 'samples' / 'LIDAR_TOP' / 'stale.bin').write_text('stale')
    assert create_synthetic_nuscenes(whole, replace(TINY, seed=1), overwrite=True)
    assert is_complete(whole, replace(TINY, seed=1))
    assert (whole / 'notes.txt').read_text() == 'mine'
    assert not any((whole / name).exists() for name in ('nuscenes_infos_train.pkl', 'nuscenes_gt_database', 'samples/LIDAR_TOP/stale.bin'))


def test_a_folder_with_other_content_is_left_alone(tmp_path, no_work):
    (tmp_path / 'thesis.tex').write_text('mine')
    with pytest.raises(FileExistsError, match='not empty and was not written by this tool'):
        create_synthetic_nuscenes(tmp_path, TINY)
    assert [path.name for path in tmp_path.iterdir()] == ['thesis.tex']


@pytest.mark.parametrize('name', ['samples', 'v1.0-mini', 'nuscenes_infos_train.pkl'])
def test_another_nuscenes_is_never_overwritten(tmp_path, no_work, name):
    (tmp_path / name).mkdir()
    with pytest.raises(FileExistsError, match=f'{name} that this tool did not write'):
        create_synthetic_nuscenes(tmp_path, TINY, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_overwrite_writes_beside_other_content(tmp_path):
    (tmp_path / 'thesis.tex').write_text('mine')
    assert create_synthetic_nuscenes(tmp_path, TINY, overwrite=True)
    assert (tmp_path / 'thesis.tex').read_text() == 'mine' and is_complete(tmp_path, TINY)


def test_an_interrupted_generation_is_noticed_and_done_again(tmp_path, made, monkeypatch):
    real, calls = writer._write_keyframe, []

    def interrupted(job):
        calls.append(job)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(job)

    root = tmp_path / 'nuscenes'
    monkeypatch.setattr(writer, '_write_keyframe', interrupted)
    with pytest.raises(KeyboardInterrupt):
        create_synthetic_nuscenes(root, TINY)
    assert not is_complete(root)
    monkeypatch.setattr(writer, '_write_keyframe', real)
    assert create_synthetic_nuscenes(root, TINY) and is_complete(root, TINY)
    for path in made.rglob('*.*'):
        if path.is_file():
            assert path.read_bytes() == (root / path.relative_to(made)).read_bytes()


def test_a_marker_cut_short_counts_as_interrupted(whole):
    (whole / MARKER).write_text(json.dumps({'complete': True})[:9])
    assert not is_complete(whole)
    assert create_synthetic_nuscenes(whole, TINY) and is_complete(whole, TINY)


def test_a_missing_folder_is_noticed(whole):
    shutil.rmtree(whole / 'maps')
    assert not is_complete(whole)


def test_no_space_is_said_before_work(tmp_path, monkeypatch, no_work):
    usage = namedtuple('usage', 'total used free')(10**12, 10**12 - 1000, 1000)
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage)
    with pytest.raises(OSError, match='no space: .* MB are needed in .*, 0 MB are free'):
        create_synthetic_nuscenes(tmp_path / 'new', TINY)
    assert not (tmp_path / 'new').exists()


def test_the_space_asked_for_suffices(made):
    used = sum(path.stat().st_size for path in made.rglob('*') if path.is_file())
    assert used < required_bytes(TINY)


def test_a_file_in_the_way_is_said(tmp_path, no_work):
    (tmp_path / 'file').write_text('')
    for out in (tmp_path / 'file', tmp_path / 'file' / 'below'):
        with pytest.raises(NotADirectoryError, match='file is a file; choose another folder'):
            create_synthetic_nuscenes(out, TINY)


def test_an_unwritable_folder_is_said(no_work):
    with pytest.raises(OSError, match='cannot write to /proc'):
        create_synthetic_nuscenes('/proc/nuscenes', TINY)
