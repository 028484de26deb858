"""tools/test.py among several processes."""

import pytest
import torch
from goldens import load_golden
from mmengine.runner import Runner
from tool_loading import load_tool

from bevfusion_plugin.visualization.test_scores import read_test_scores

TOY = """
default_scope = 'mmengine'
model = dict(type='toy_training.ToyModel')
test_dataloader = dict(batch_size=2, num_workers=0, collate_fn=dict(type='default_collate'),
                       dataset=dict(type='toy_training.ToyData'), sampler=dict(type='DefaultSampler', shuffle=False))
test_cfg = dict()
test_evaluator = dict(type='DumpResults', out_file_path={folder!r} + '/results.pkl')
env_cfg = dict(dist_cfg=dict(backend='gloo', init_method='file://' + {folder!r} + '/store', rank=0, world_size=1))
"""


@pytest.fixture
def alone_in_a_group(tmp_path, monkeypatch):
    """A toy config and checkpoint for the only process of a group, with the environment that a launcher gives."""
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    for name, value in dict(LOCAL_RANK='0', OMP_NUM_THREADS='1', MKL_NUM_THREADS='1').items():
        monkeypatch.setenv(name, value)
    (tmp_path / 'toy.py').write_text(TOY.format(folder=str(tmp_path)))
    torch.save(dict(state_dict={}), tmp_path / 'toy.pth')
    return [str(tmp_path / 'toy.py'), str(tmp_path / 'toy.pth'), '--work-dir', str(tmp_path / 'work'), '--launcher', 'pytorch']


def test_a_process_that_has_tested_is_in_no_group_any_more(alone_in_a_group, tmp_path):
    assert load_tool('test').main(alone_in_a_group) == 0
    assert (tmp_path / 'results.pkl').is_file() and not torch.distributed.is_initialized()


def test_a_test_that_fails_is_in_no_group_any_more(alone_in_a_group, monkeypatch):
    def fail(runner):
        assert torch.distributed.is_initialized()
        raise RuntimeError('out of memory')

    monkeypatch.setattr(Runner, 'test', fail)
    with pytest.raises(RuntimeError, match='out of memory'):
        load_tool('test').main(alone_in_a_group)
    assert not torch.distributed.is_initialized()


DETECTOR = """
default_scope = 'mmdet3d'
model = {model!r}
test_dataloader = dict(batch_size=2, num_workers=0, dataset=dict(type='recorded_scene.RecordedScene'),
                       sampler=dict(type='DefaultSampler', shuffle=False))
test_cfg = dict()
test_evaluator = dict(type='bevfusion_plugin.CenterDistanceMetric', min_points=0, score_thr=0.0)
"""


@pytest.fixture
def detector(tmp_path):
    """Arguments of the tool for a small detector with lidar and cameras, initialised, and its work dir."""
    golden = load_golden('e2e_lidar_cam')
    (tmp_path / 'detector.py').write_text(DETECTOR.format(model=dict(golden.meta['cfg'], type='bevfusion_plugin.BEVFusion')))
    torch.save(dict(state_dict=golden.group('sd/')), tmp_path / 'detector.pth')
    return [str(tmp_path / 'detector.py'), str(tmp_path / 'detector.pth'), '--work-dir', str(tmp_path / 'work')]


def test_what_a_sensor_adds_is_kept_as_numbers_for_the_report(detector, tmp_path):
    tool = load_tool('test')
    for arguments in ([], ['--without', 'camera'], ['--without', 'lidar', '--amp', 'bfloat16']):
        assert tool.main([*detector, *arguments]) == 0
    tests = read_test_scores(tmp_path / 'work')
    assert list(tests) == ['all sensors', 'without camera', 'without lidar']
    for test in tests.values():
        assert test['checkpoint'] == detector[1] and 0 <= test['metrics']['center_distance/mAP'] <= 1


def test_a_sensor_that_the_model_has_not_cannot_be_left_out(detector, capsys):
    options = [f'model.{name}=None' for name in ('img_backbone', 'img_neck', 'view_transform', 'fusion_layer')]
    assert load_tool('test').main([*detector, '--without', 'camera', '--cfg-options', *options]) == 2
    assert '--without camera needs a model with camera and lidar, got one with lidar' in capsys.readouterr().err
