"""The command lines around the synthetic nuScenes."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from tool_loading import load_tool

TOOLS = Path(__file__).parents[2] / 'tools'
SMALL = ['--scenes', '2', '--samples-per-scene', '2', '--image-scale', '0.1', '--sweeps', '0', '--azimuth-steps', '180', '--workers', '1']


@pytest.fixture(scope='module')
def create():
    return load_tool('create_synthetic_nuscenes').main


@pytest.fixture(scope='module')
def prepare():
    return load_tool('prepare_nuscenes')


def test_the_second_run_says_that_the_data_are_there(create, tmp_path, capsys):
    create(['--out', str(tmp_path / 'data'), *SMALL])
    assert '4 samples in 2 scenes written' in capsys.readouterr().out
    create(['--out', str(tmp_path / 'data'), *SMALL])
    assert '4 samples in 2 scenes were there already' in capsys.readouterr().out


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['--scenes', '0'], 'scenes must be an integer from 2 to 10, got 0'),
        (['--image-scale', '2'], 'image_scale must be in'),
        (['--workers', '0'], 'workers must be >= 1'),
    ],
)
def test_bad_arguments_end_with_one_clear_line(create, tmp_path, arguments, message):
    with pytest.raises(SystemExit, match=message):
        create(['--out', str(tmp_path / 'data'), *arguments])
    assert not (tmp_path / 'data').exists()


def test_a_folder_in_use_ends_with_one_clear_line(create, tmp_path):
    (tmp_path / 'mine').write_text('')
    with pytest.raises(SystemExit, match='is not empty and was not written by this tool'):
        create(['--out', str(tmp_path), *SMALL])


def test_help_shows_an_example():
    done = subprocess.run([sys.executable, str(TOOLS / 'prepare_nuscenes.py'), '--help'], capture_output=True, text=True, check=True)
    assert 'example: python tools/prepare_nuscenes.py' in done.stdout


def test_preparing_names_the_folder_that_is_missing(prepare, tmp_path):
    for name in ('samples', 'sweeps'):
        with pytest.raises(SystemExit, match=f'{name} is missing; .* must be a nuScenes of version v1.0-mini'):
            prepare.main([str(tmp_path), '--version', 'v1.0-mini'])
        (tmp_path / name).mkdir()
    with pytest.raises(SystemExit, match='v1.0-mini is missing'):
        prepare.main([str(tmp_path), '--version', 'v1.0-mini'])


def test_preparing_names_the_package_that_is_missing(prepare, tmp_path, monkeypatch):
    for name in ('samples', 'sweeps', 'v1.0-mini'):
        (tmp_path / name).mkdir()
    monkeypatch.setitem(prepare.PACKAGES, 'no_such_module', 'no-such-package')
    with pytest.raises(SystemExit, match='no-such-package is not installed; pip install'):
        prepare.main([str(tmp_path), '--version', 'v1.0-mini'])


def test_preparing_names_mmdet3d_where_only_a_folder_of_its_name_is_there(prepare, monkeypatch):
    monkeypatch.setattr(prepare.importlib.util, 'find_spec', lambda name: SimpleNamespace(origin=None))
    with pytest.raises(FileNotFoundError, match='create_data.py is missing; pip install --no-deps mmdet3d'):
        prepare.find_create_data()


def test_a_failing_converter_is_reported(prepare, tmp_path, monkeypatch):
    for name in ('samples', 'sweeps', 'v1.0-mini'):
        (tmp_path / name).mkdir()
    failing = tmp_path / 'tools' / 'create_data.py'
    failing.parent.mkdir()
    failing.write_text('raise SystemExit(3)')
    monkeypatch.setattr(prepare, 'find_create_data', lambda: failing)
    with pytest.raises(SystemExit, match='create_data.py failed on .* \\(exit status 3\\)'):
        prepare.main([str(tmp_path), '--version', 'v1.0-mini'])


def prepared(folder, infos):
    for name in ('nuscenes_infos_train.pkl', 'nuscenes_infos_val.pkl', 'nuscenes_gt_database', 'nuscenes_dbinfos_train.pkl'):
        (folder / name).write_bytes(infos)


def test_prepared_data_are_left_alone(prepare, tmp_path, capsys):
    prepared(tmp_path, pickle.dumps(dict(metainfo=dict(version='v1.0-mini'), data_list=[])))
    prepare.main([str(tmp_path), '--version', 'v1.0-mini'])
    assert 'prepared already' in capsys.readouterr().out


def test_info_files_of_another_version_or_damaged_ones_are_not_taken_for_prepared(prepare, tmp_path):
    prepared(tmp_path, pickle.dumps(dict(metainfo=dict(version='v1.0-mini'), data_list=[])))
    with pytest.raises(SystemExit, match='was made from v1.0-mini, not from v1.0-trainval; --overwrite'):
        prepare.main([str(tmp_path)])
    prepared(tmp_path, b'')
    with pytest.raises(SystemExit, match='is no whole info file; --overwrite'):
        prepare.main([str(tmp_path)])
