"""Every kind of damaged data on a copy of a small set, through the pipelines of our configs: one error with file, sample and mend."""

from __future__ import annotations

import math
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from damaged_set import (
    INDEX,
    Copy,
    change_image,
    change_points,
    drop,
    half,
    names,
    put,
    put_categories,
    put_in_box,
    put_in_matrix,
    resized,
    truncate,
    with_value,
)
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope

from bevfusion_plugin.datasets import BadSample

ROOT = Path(__file__).parents[2]
INF, NAN = math.inf, math.nan


@pytest.fixture
def copy(tiny_nuscenes, tmp_path) -> Copy:
    root = tmp_path / 'samples_of_nuscenes'
    shutil.copytree(tiny_nuscenes, root, ignore=shutil.ignore_patterns('maps', 'v1.0-mini'))
    return Copy(root, pickle.loads((root / 'nuscenes_infos_train.pkl').read_bytes()))


@pytest.fixture(scope='module')
def demo() -> Config:
    init_default_scope('mmdet3d')
    return Config.fromfile(ROOT / 'configs' / 'bevfusion_demo.py')


def dataset_of(copy: Copy, demo: Config, split: str, **changes):
    """The data set of the demo config, on the copy."""
    cfg = demo.train_dataloader.dataset.dataset if split == 'train' else demo.val_dataloader.dataset
    return DATASETS.build(dict(cfg, data_root=str(copy.root), ann_file=f'nuscenes_infos_{split}.pkl', **changes))


# ---- what may go wrong: each damages the copy and returns the damaged file

POINT_FAULTS = {
    'point file missing': (lambda c: c.points.unlink() or c.points, 'does not exist'),
    'point file empty': (lambda c: truncate(c.points, 0), 'is empty'),
    'point file cut inside a number': (lambda c: truncate(c.points, 4 * 5 * 100 + 3), r'2,003 bytes, which is no multiple of 20'),
    'point file cut inside a point': (lambda c: truncate(c.points, 4 * 5 * 100 + 8), r'no multiple of 20 \(num_pts_feats 5 x 4\)'),
    'point file a folder': (lambda c: c.points.unlink() or c.points.mkdir() or c.points, 'cannot be read'),
    'half of the points': (lambda c: half(c.points), 'a part of it is missing'),
    'a tenth of the points': (lambda c: change_points(c.points, lambda points: points[::10]), 'a part of it is missing'),
    'one point': (lambda c: truncate(c.points, 20), 'a part of it is missing'),
    'a point with NaN': (lambda c: change_points(c.points, with_value(slice(7, 8), 0, NAN)), '1 points of .* not finite'),
    'an intensity of NaN': (lambda c: change_points(c.points, with_value(slice(7, 8), 3, NAN)), '1 points of .* not finite'),
    'a point with inf': (lambda c: change_points(c.points, with_value(slice(7, 9), 2, INF)), '2 points of .* not finite'),
    'a point with -inf': (lambda c: change_points(c.points, with_value(slice(7, 8), 1, -INF)), 'not finite'),
    'all points NaN': (lambda c: change_points(c.points, with_value(slice(None), 0, NAN)), 'not finite'),
    'all points out of range': (lambda c: change_points(c.points, lambda points: points + np.float32(500)), 'no point within'),
    'points in millimetres': (lambda c: change_points(c.points, lambda points: points * np.float32(1000)), 'm away|no point within'),
    'points all zero': (lambda c: change_points(c.points, np.zeros_like), r'all at \[0.0, 0.0, 0.0\]'),
    'points as float64': (lambda c: change_points(c.points, lambda points: points.astype(np.float64)), 'not finite|m away|part of it'),
    'points as text': (lambda c: c.points.write_text('x y z\n' * 333) and c.points, 'no multiple|m away|not finite'),
    'sweep missing': (lambda c: c.sweep.unlink() or c.sweep, 'does not exist'),
    'sweep empty': (lambda c: truncate(c.sweep, 0), 'is empty'),
    'sweep cut off': (lambda c: truncate(c.sweep, 4 * 5 * 50 + 1), 'no multiple of 20'),
    'sweep with NaN': (lambda c: change_points(c.sweep, with_value(slice(0, 3), 0, NAN)), '3 points of .* not finite'),
    'half of a sweep': (lambda c: half(c.sweep), 'a part of it is missing'),
}
IMAGE_FAULTS = {
    'image missing': (lambda c: c.image.unlink() or c.image, r'\(image of CAM_FRONT\) does not exist'),
    'image empty': (lambda c: truncate(c.image, 0), 'is empty'),
    'image cut off': (lambda c: truncate(c.image, 0.6), 'cannot be decoded'),
    'image cut in its header': (lambda c: truncate(c.image, 40), 'cannot be decoded'),
    'image a text': (lambda c: c.image.write_text('<html>404</html>') and c.image, 'cannot be decoded'),
    'image grey': (lambda c: change_image(c, lambda image: image.convert('L')), 'mode L.*grey'),
    'image of four colours': (lambda c: change_image(c, lambda image: image.convert('CMYK')), 'mode CMYK'),
    'image of double size': (lambda c: change_image(c, resized(2)), 'is 320 x 180 pixels'),
    'image of half size': (lambda c: change_image(c, resized(0.5)), 'is 80 x 45 pixels'),
    'image turned': (lambda c: change_image(c, lambda image: image.rotate(90, expand=True)), 'is 90 x 160 pixels'),
    'image a PNG': (lambda c: change_image(c, lambda image: image, 'PNG'), 'holds PNG data, and its name says JPEG'),
    'image transparent': (lambda c: change_image(c, lambda image: image.convert('RGBA'), 'PNG'), 'holds PNG data'),
}
CALIBRATION_FAULTS = {
    'lidar2cam with NaN': (lambda c: put_in_matrix(c, c.camera, 'lidar2cam', NAN), 'images.CAM_FRONT.lidar2cam .* not finite'),
    'lidar2cam with inf': (lambda c: put_in_matrix(c, c.camera, 'lidar2cam', INF, 1, 1), 'lidar2cam .* not finite'),
    'lidar2cam zero': (lambda c: put(c, c.camera, 'lidar2cam', np.diag([0.0, 0, 0, 1]).tolist()), 'lidar2cam .* not rigid'),
    'lidar2cam mirrored': (lambda c: put(c, c.camera, 'lidar2cam', np.diag([-1.0, 1, 1, 1]).tolist()), 'not rigid'),
    'lidar2cam (3, 4)': (
        lambda c: put(c, c.camera, 'lidar2cam', c.camera['lidar2cam'][:3]),
        r'\(4, 4\) matrix of numbers, got the shape \(3, 4\)',
    ),
    'lidar2cam missing': (lambda c: drop(c, c.camera, 'lidar2cam'), 'images.CAM_FRONT .* lacks lidar2cam'),
    'lidar2cam transposed': (
        lambda c: put(c, c.camera, 'lidar2cam', np.transpose(c.camera['lidar2cam']).tolist()),
        r'end with the row \[0, 0, 0, 1\]',
    ),
    'cam2img with NaN': (lambda c: put_in_matrix(c, c.camera, 'cam2img', NAN, 0, 0), 'images.CAM_FRONT.cam2img .* not finite'),
    'cam2img zero': (lambda c: put(c, c.camera, 'cam2img', np.zeros((3, 3)).tolist()), 'focal lengths 0 and 0'),
    'cam2img transposed': (lambda c: put(c, c.camera, 'cam2img', np.transpose(c.camera['cam2img']).tolist()), r'cam2img .* must be \[\[fx'),
    'cam2img missing': (lambda c: drop(c, c.camera, 'cam2img'), 'lacks cam2img'),
    'cam2img of another camera\'s size': (
        lambda c: put(c, c.camera, 'cam2img', (np.array(c.camera['cam2img']) * [[2], [2], [1]]).tolist()),
        'optical axis',
    ),
    'lidar2img singular': (lambda c: put(c, c.camera, 'lidar2img', np.zeros((4, 4)).tolist()), 'lidar2img .* singular'),
    'lidar2img with NaN': (lambda c: put(c, c.camera, 'lidar2img', np.full((4, 4), NAN).tolist()), 'lidar2img .* not finite'),
    'ego2global with NaN': (lambda c: put_in_matrix(c, c.entry, 'ego2global', NAN), 'ego2global .* not finite'),
    'ego2global singular': (lambda c: put(c, c.entry, 'ego2global', np.diag([1.0, 1, 0, 1]).tolist()), 'ego2global .* not rigid'),
    'lidar2ego with NaN': (lambda c: put_in_matrix(c, c.entry['lidar_points'], 'lidar2ego', NAN), 'lidar2ego .* not finite'),
    'lidar2sensor with NaN': (
        lambda c: put_in_matrix(c, c.entry['lidar_sweeps'][0]['lidar_points'], 'lidar2sensor', NAN),
        r'lidar_sweeps\[0\].lidar_points.lidar2sensor .* not finite',
    ),
}
BOX_FAULTS = {
    'box with NaN': (lambda c: put_in_box(c, 0, NAN), 'x that are not finite'),
    'box with inf': (lambda c: put_in_box(c, 4, INF), 'w that are not finite'),
    'box without length': (lambda c: put_in_box(c, 3, 0.0), 'has no size'),
    'box of negative height': (lambda c: put_in_box(c, 5, -1.5), 'has no size'),
    'box a million metres away': (lambda c: put_in_box(c, 1, 1e6), 'is 1e.06 m away'),
    'box a mile long': (lambda c: put_in_box(c, 3, 1609.0), 'is 1.61e.03 m long'),
    'yaw NaN': (lambda c: put_in_box(c, 6, NAN), 'yaw that are not finite'),
    'velocity inf': (lambda c: put(c, c.box, 'velocity', [INF, 0.0]), 'vx that are not finite'),
    'half of a velocity': (lambda c: put(c, c.box, 'velocity', [0.0, NAN]), 'vy that are not finite'),
}
INFO_FAULTS = {
    'label outside the classes': (
        lambda c: put(c, c.box, 'bbox_label_3d', 57),
        r'bbox_label_3d .* is 57, and the data set knows the labels -1 to 9',
    ),
    'label a name': (lambda c: put(c, c.box, 'bbox_label_3d', 'car'), "bbox_label_3d .* is 'car'"),
    'box without label': (lambda c: drop(c, c.box, 'bbox_label_3d'), r'instances\[\d+\] .* lacks bbox_label_3d'),
    'label without box': (lambda c: drop(c, c.box, 'bbox_3d'), 'lacks bbox_3d'),
    'box of six numbers': (lambda c: put(c, c.box, 'bbox_3d', [1.0] * 6), 'must be 7 numbers'),
    'box of text': (lambda c: put(c, c.box, 'bbox_3d', ['a'] * 7), 'must be 7 numbers'),
    'velocity missing': (lambda c: drop(c, c.box, 'velocity'), 'lacks velocity'),
    'valid flag missing': (
        lambda c: [box.pop('bbox_3d_isvalid') + box.pop('num_lidar_pts') for box in c.entry['instances']] and c.ann_file,
        'lacks bbox_3d_isvalid|lacks num_lidar_pts',
    ),
    'instances missing': (lambda c: drop(c, c.entry, 'instances'), 'instances .* are missing; .* a frame without boxes has an empty list'),
    'lidar_points missing': (lambda c: drop(c, c.entry, 'lidar_points'), 'lidar_points .* is missing'),
    'lidar_path missing': (lambda c: drop(c, c.entry['lidar_points'], 'lidar_path'), 'lidar_points .* lacks lidar_path'),
    'num_pts_feats missing': (lambda c: drop(c, c.entry['lidar_points'], 'num_pts_feats'), 'lacks num_pts_feats'),
    'num_pts_feats zero': (lambda c: put(c, c.entry['lidar_points'], 'num_pts_feats', 0), 'num_pts_feats .* >= 3, got 0'),
    'num_pts_feats of another lidar': (lambda c: put(c, c.entry['lidar_points'], 'num_pts_feats', 7), 'no multiple of 28'),
    'images missing': (lambda c: drop(c, c.entry, 'images'), 'images .* must be a dict of cameras'),
    'no image path': (
        lambda c: [camera.pop('img_path') for camera in c.entry['images'].values()] and c.ann_file,
        r'have no picture \(img_path\) of any camera',
    ),
    'timestamp missing': (lambda c: drop(c, c.entry, 'timestamp'), 'lacks timestamp'),
    'sweep without path': (lambda c: drop(c, c.entry['lidar_sweeps'][0]['lidar_points'], 'lidar_path'), 'lacks lidar_path'),
    'sweep without lidar2sensor': (lambda c: drop(c, c.entry['lidar_sweeps'][0]['lidar_points'], 'lidar2sensor'), 'lacks lidar2sensor'),
    'sweep without timestamp': (lambda c: drop(c, c.entry['lidar_sweeps'][0], 'timestamp'), r'lidar_sweeps\[0\] .* lacks timestamp'),
    'token twice': (lambda c: put(c, c.entry, 'token', c.infos['data_list'][0]['token']), 'token .* is that of sample 0 too'),
}
FILE_FAULTS = {
    'categories reordered': (lambda c: put_categories(c, names(c)[::-1]), r'number the classes otherwise .* barrier 0 \(data set: 9\)'),
    'two categories exchanged': (
        lambda c: put_categories(c, ['truck', 'car', *names(c)[2:]]),
        r'truck 0 \(data set: 1\), car 1 \(data set: 0\)',
    ),
    'categories of other names': (
        lambda c: put_categories(c, [f'vehicle.{name}' for name in names(c)]),
        'does not know car, .*vehicle.car',
    ),
    'a category missing': (lambda c: put_categories(c, names(c)[:-1]), 'does not know barrier'),
    'info file cut off': (lambda c: c.save() or truncate(c.ann_file, 0.5), 'cannot be read'),
    'info file empty': (lambda c: c.ann_file.write_bytes(b'') or c.ann_file, 'cannot be read'),
    'info file of another format': (lambda c: c.ann_file.write_bytes(pickle.dumps([1, 2])) and c.ann_file, 'cannot be read'),
}
SAMPLE_FAULTS = {**POINT_FAULTS, **IMAGE_FAULTS, **CALIBRATION_FAULTS, **BOX_FAULTS, **INFO_FAULTS}
MEND = 'copy it again|make the info file again|correct the box|correct its|check the unit|take one of them out'


@pytest.mark.parametrize('split', ['train', 'val'])
@pytest.mark.parametrize('name', SAMPLE_FAULTS)
def test_a_damaged_sample_is_named_with_file_and_mend(name, split, copy, demo):
    damage, reason = SAMPLE_FAULTS[name]
    damaged = damage(copy)
    copy.save()
    file = str(damaged).replace('_train', f'_{split}') if damaged == copy.ann_file else str(damaged)
    with pytest.raises(BadSample, match=reason) as caught:
        dataset_of(copy, demo, split)[INDEX]
    message = str(caught.value)
    assert f'sample {INDEX} ' in message and copy.infos['data_list'][INDEX]['token'] in message
    assert file in message and re.search(MEND, message) and '\n' not in message


@pytest.mark.parametrize('name', FILE_FAULTS)
def test_a_damaged_info_file_is_named_with_a_mend(name, copy, demo):
    damage, reason = FILE_FAULTS[name]
    before = copy.ann_file.read_bytes()
    damage(copy)
    if copy.ann_file.read_bytes() == before:
        copy.save()
    with pytest.raises(BadSample, match=reason) as caught:
        dataset_of(copy, demo, 'train')
    assert str(copy.ann_file) in str(caught.value) and re.search('make the info file again', str(caught.value))


def test_there_are_at_least_57_kinds_of_faults():
    assert len(SAMPLE_FAULTS) + len(FILE_FAULTS) >= 57


# ---- what looks odd and is as it should be

LEGITIMATE = {
    'nothing changed': lambda c: None,
    'a frame without boxes': lambda c: put(c, c.entry, 'instances', []),
    'velocity that nobody measured': lambda c: put(c, c.box, 'velocity', [NAN, NAN]),
    'a box without points': lambda c: put(c, c.box, 'num_lidar_pts', 0),
    'a frame without sweeps': lambda c: drop(c, c.entry, 'lidar_sweeps'),
    'a camera matrix of (3, 4)': lambda c: put(c, c.camera, 'cam2img', np.pad(c.camera['cam2img'], ((0, 0), (0, 1))).tolist()),
    'a class that is not trained': lambda c: put(c, c.box, 'bbox_label_3d', -1),
    'a NaN box of a class that is not trained': lambda c: put_in_box(c, 0, NAN) and put(c, c.box, 'bbox_label_3d', -1),
    'bytes behind the end of an image': lambda c: c.image.write_bytes(c.image.read_bytes() + b'\0' * 200),
    'infos that do not tell their categories': lambda c: drop(c, c.infos['metainfo'], 'categories'),
    'a quarter fewer points': lambda c: change_points(c.points, lambda points: points[: len(points) * 3 // 4]),
    'a field more': lambda c: put(c, c.entry, 'weather', 'rain'),
}


@pytest.mark.parametrize('split', ['train', 'val'])
@pytest.mark.parametrize('name', LEGITIMATE)
def test_what_is_legitimate_passes_the_whole_pipeline(name, split, copy, demo):
    LEGITIMATE[name](copy)
    copy.save()
    changes = dict(filter_empty_gt=False) if split == 'train' else {}
    sample = dataset_of(copy, demo, split, **changes)[INDEX]
    assert len(sample['inputs']['points']) and sample['data_samples'].sample_idx == INDEX
