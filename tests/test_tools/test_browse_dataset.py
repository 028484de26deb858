"""tools/browse_dataset.py: its pictures, and numbers that tell a wrong calibration and a lost augmentation."""

from __future__ import annotations

import pickle
import re

import numpy as np
import pytest
from custom_data import custom_config, write_custom_data
from goldens import nuscenes_sample
from PIL import Image
from tool_loading import load_tool

PREFIX = {'pts': 'points', **{name: f'images/{name}' for name in ('front', 'left', 'right')}}
SHARE = re.compile(r'\| all +\| ([\d,]+) +\| ([\d.]+)% +\| (.D) boxes')


@pytest.fixture
def browse(tmp_path, capsys):
    """A function that browses the data of ``tmp_path`` and gives status, (points, per cent inside, kind of boxes), pictures, errors."""

    def run(cameras=('front',), arguments=(), change=None, **settings):
        path = custom_config(tmp_path / 'configs', data_root=str(tmp_path / 'data'), cameras=list(cameras), data_prefix=PREFIX, **settings)
        if change:
            assert change[0] in path.read_text()
            path.write_text(path.read_text().replace(*change))
        status = load_tool('browse_dataset').main([str(path), '--output-dir', str(tmp_path / 'out'), *arguments])
        printed = capsys.readouterr()
        found = SHARE.search(printed.out)
        numbers = (int(found[1].replace(',', '')), float(found[2]), found[3]) if found else None
        return status, numbers, sorted(tmp_path.glob('out/*.png')), printed.err

    return run


def test_each_sample_gives_a_picture_and_all_points_in_boxes_land_in_their_box(browse, tmp_path):
    cameras = ('front', 'left', 'right')
    write_custom_data(tmp_path / 'data', cameras, samples=3)
    status, (points, share, kind), pictures, _ = browse(cameras)
    assert status == 0 and points > 200 and share == 100 and kind == '3D'
    assert [path.name for path in pictures] == ['0.png', '1.png', '2.png'] and Image.open(pictures[0]).width > 1500


def test_number_limits_the_pictures_and_spreads_them_over_the_set(browse, tmp_path):
    write_custom_data(tmp_path / 'data', samples=3)
    assert [path.name for path in browse(arguments=['--number', '2', '--split', 'val'])[2]] == ['0.png', '2.png']


def test_the_same_pictures_come_every_time(browse, tmp_path):
    write_custom_data(tmp_path / 'data', samples=1)
    first = np.asarray(Image.open(browse()[2][0]))
    np.testing.assert_array_equal(first, np.asarray(Image.open(browse()[2][0])))


def turn_camera(root, degrees):
    path = root / 'custom_infos_val.pkl'
    infos = pickle.loads(path.read_bytes())
    turn = np.eye(4)
    turn[0, 0] = turn[2, 2] = np.cos(np.deg2rad(degrees))
    turn[2, 0] = np.sin(np.deg2rad(degrees))
    turn[0, 2] = -turn[2, 0]
    for entry in infos['data_list']:
        camera = entry['images']['front']
        camera['lidar2cam'] = (turn @ camera['lidar2cam']).tolist()
    path.write_bytes(pickle.dumps(infos))


@pytest.mark.parametrize('degrees, status, least, most', [(0, 0, 100, 100), (4, 1, 50, 95), (8, 1, 0, 80)])
def test_a_camera_turned_by_degrees_is_told_by_the_info_files_2d_boxes(browse, tmp_path, degrees, status, least, most):
    write_custom_data(tmp_path / 'data', boxes_2d=True)
    turn_camera(tmp_path / 'data', degrees)
    found, (_, share, kind), _, errors = browse(arguments=['--split', 'val'])
    assert (found, kind) == (status, '2D') and least <= share <= most
    assert ('front, all' in errors or 'front: lidar points in boxes lie elsewhere' in errors) == bool(status)


def test_an_augmentation_that_no_matrix_knows_is_told(browse, tmp_path):
    write_custom_data(tmp_path / 'data')
    change = ("type='bevfusion_plugin.BEVFusionGlobalRotScaleTrans',", "type='GlobalRotScaleTrans',")  # mmdet3d's, which records otherwise
    status, (_, share, _), _, errors = browse(change=change)
    assert status == 1 and share < 95 and 'an augmentation is missing in lidar_aug_matrix' in errors


def test_without_cameras_there_are_pictures_from_above_and_no_numbers(browse, tmp_path):
    write_custom_data(tmp_path / 'data', ())
    status, numbers, pictures, _ = browse(())
    assert (status, numbers, len(pictures)) == (0, None, 2)


def test_a_frame_without_boxes_is_drawn(browse, tmp_path):
    path = write_custom_data(tmp_path / 'data', samples=1) / 'custom_infos_val.pkl'
    infos = pickle.loads(path.read_bytes())
    infos['data_list'][0]['instances'] = []
    path.write_bytes(pickle.dumps(infos))
    status, numbers, pictures, _ = browse(arguments=['--split', 'val'])
    assert (status, numbers, len(pictures)) == (0, None, 1)


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['--number', '0'], '--number must be >= 1, got 0'),
        (['--split', 'test', '--cfg-options', 'test_dataloader=None'], 'has no data set in test_dataloader; name another split'),
        (['--cfg-options', 'train_dataloader.dataset.type=NoSuch'], 'the data set NoSuch cannot be built: KeyError'),
        (['--cfg-options', 'train_dataloader.dataset.ann_file=no.pkl'], 'no.pkl'),
        (['--cfg-options', 'train_pipeline=[]', 'train_dataloader.dataset.pipeline=[]'], 'sample 0: '),
        (['--output-dir', '/dev/null/there'], '/dev/null'),
    ],
)
def test_what_cannot_be_looked_at_ends_with_2_and_one_line(browse, tmp_path, arguments, message):
    write_custom_data(tmp_path / 'data', samples=1)
    status, _, pictures, errors = browse(arguments=arguments)
    assert (status, pictures) == (2, []) and message in errors and 'Traceback' not in errors


def test_on_a_real_frame_the_numbers_are_those_of_a_right_calibration(tmp_path, capsys):
    sample = nuscenes_sample()
    assert (
        load_tool('browse_dataset').main(
            ['bevfusion.py', '--split', 'val', '--output-dir', str(tmp_path), '--cfg-options', f'data_root={sample}']
        )
        == 0
    )
    points, share, kind = SHARE.search(capsys.readouterr().out).groups()
    assert (points, float(share), kind) == ('8,360', 100, '2D') and len(list(tmp_path.glob('*.png'))) == 1
