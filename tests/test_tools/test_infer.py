"""tools/infer.py: one frame's boxes as JSON and as a picture, and what it refuses."""

from __future__ import annotations

import json
import pickle

import pytest
import torch
from custom_data import CLASSES, custom_config, write_custom_data
from mmengine.registry import MODELS, init_default_scope
from PIL import Image
from tool_loading import load_tool

from bevfusion_plugin.launch.config_file import load_config
from bevfusion_plugin.launch.data_set import split_data_set
from bevfusion_plugin.launch.inference import detect, detections

PREFIX = dict(pts='points', front='images/front')


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """Kind of sensors -> (config, checkpoint) with random weights, and the folder of the data."""
    root = tmp_path_factory.mktemp('infer')
    write_custom_data(root / 'data')
    found = dict(data=root / 'data')
    for kind, cameras in dict(lidar=[], fusion=['front']).items():
        path = custom_config(root / kind, data_root=str(root / 'data'), cameras=cameras, data_prefix=PREFIX)
        init_default_scope('mmdet3d')
        torch.manual_seed(0)
        torch.save(dict(state_dict=MODELS.build(load_config(path).model).state_dict()), root / f'{kind}.pth')
        found[kind] = [str(path), str(root / f'{kind}.pth')]
    return found


def infer(trained, kind, *arguments):
    return load_tool('infer').main([*trained[kind], *map(str, arguments)])


@pytest.mark.parametrize('kind', ['lidar', 'fusion'])
def test_boxes_are_those_of_the_test_and_a_picture_shows_them(trained, kind, tmp_path):
    assert infer(trained, kind, '--index', 1, '--score-thr', 0, '--out-dir', tmp_path, '--device', 'cpu') == 0
    found = json.loads((tmp_path / '1.json').read_text())
    cfg = load_config(trained[kind][0])
    model = MODELS.build(cfg.model).eval()
    model.load_state_dict(torch.load(trained[kind][1])['state_dict'])
    data = split_data_set(cfg, 'test')
    expected = detections(detect(model, data[1]), data.metainfo['classes'], 0.0)
    assert found == json.loads(json.dumps(expected)) and len(found['boxes']) == 200
    assert {box['class'] for box in found['boxes']} <= set(CLASSES) and set(found['boxes'][0]) == {
        'class',
        'label',
        'score',
        'center',
        'size',
        'yaw',
    }
    assert Image.open(tmp_path / '1.png').width > 1000


def test_a_frame_of_its_own_files_needs_no_annotations(trained, tmp_path):
    entry = pickle.loads((trained['data'] / 'custom_infos_val.pkl').read_bytes())['data_list'][0]
    del entry['instances']
    entry.update(sample_idx='my frame', lidar_points=dict(entry['lidar_points'], lidar_path=str(trained['data'] / 'points/000000.bin')))
    (tmp_path / 'frame.json').write_text(json.dumps(entry))
    assert infer(trained, 'fusion', '--info', tmp_path / 'frame.json', '--score-thr', 0.2, '--out-dir', tmp_path) == 0
    found = json.loads((tmp_path / 'my_frame.json').read_text())
    assert found['sample_idx'] == 'my frame' and all(box['score'] >= 0.2 for box in found['boxes'])


def test_a_point_file_is_enough_without_cameras(trained, tmp_path):
    points = trained['data'] / 'points' / '000001.bin'
    assert infer(trained, 'lidar', '--points', points, '--score-thr', 0, '--out-dir', tmp_path) == 0
    assert json.loads((tmp_path / '000001.json').read_text())['lidar_path'] == str(points)


@pytest.mark.parametrize(
    'kind, arguments, message',
    [
        ('lidar', ['--index', '2'], '--index must be 0 to 1, as '),
        ('lidar', ['--index', '-1'], '--index must be 0 to 1'),
        ('lidar', ['--info', 'no.pkl'], 'there is no info file no.pkl; name one with --info'),
        ('lidar', ['--info', '{data}/points/000000.bin'], 'cannot be read as an info file'),
        ('lidar', ['--info', '{data}/empty.json'], 'has no data_list with entries'),
        ('lidar', ['--info', '{data}/list.json'], 'holds list and must hold a dict with data_list'),
        ('lidar', ['--points', 'no.bin'], '--points no.bin: there is no such file'),
        ('lidar', ['--points', 'a', '--info', 'b'], '--points a and --info b name two frames; give one of them'),
        (
            'fusion',
            ['--points', '{data}/points/000000.bin'],
            'this model has cameras; give the frame with its pictures and matrices as --info',
        ),
        ('lidar', ['--score-thr', '3'], '--score-thr must be in'),
        ('lidar', ['--device', 'nowhere'], 'cannot be built on nowhere'),
        ('lidar', ['--cfg-options', 'model.type=NoSuch'], 'the model cannot be built on'),
        ('lidar', ['--cfg-options', 'test_dataloader=None'], 'has no data set in test_dataloader'),
        ('lidar', ['--out-dir', '/dev/null/there'], '/dev/null'),
    ],
)
def test_what_cannot_be_used_ends_with_2_and_one_line(trained, kind, arguments, message, capsys):
    (trained['data'] / 'empty.json').write_text('{}')
    (trained['data'] / 'list.json').write_text('[]')
    assert infer(trained, kind, *[each.format(data=trained['data']) for each in arguments]) == 2
    errors = capsys.readouterr().err
    assert message in errors and 'Traceback' not in errors


@pytest.mark.parametrize(
    'checkpoint, message', [('no.pth', 'there is no checkpoint no.pth'), (__file__, 'checkpoint'), ('lidar', 'is not of this model: ')]
)
def test_a_checkpoint_that_is_none_of_this_model_ends_with_2(trained, checkpoint, message, capsys):
    path = trained['lidar'][1] if checkpoint == 'lidar' else checkpoint
    assert load_tool('infer').main([trained['fusion'][0], path]) == 2
    errors = capsys.readouterr().err
    assert message in errors and 'Traceback' not in errors
