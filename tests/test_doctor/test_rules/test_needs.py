import pytest
from mmengine.config import Config
from reference_recipes import reference_fusion, reference_lidar

from bevfusion_plugin.doctor.case import Case
from bevfusion_plugin.doctor.examination import examine
from bevfusion_plugin.doctor.rules import needs

TRAINING = dict(max_epochs=1)


def problems(check, cfg, **settings):
    return list(check(Case(cfg, **settings)))


def test_missing_gpus_are_noticed(monkeypatch):
    monkeypatch.setattr('torch.cuda.is_available', lambda: False)
    assert 'nccl' in problems(needs.check_devices, reference_lidar(), gpus=8)[0].message
    assert not problems(needs.check_devices, reference_lidar(), gpus=1)
    monkeypatch.setattr('torch.cuda.is_available', lambda: True)
    monkeypatch.setattr('torch.cuda.device_count', lambda: 2)
    assert '8 GPUs are planned and this machine has 2' in problems(needs.check_devices, reference_lidar(), gpus=8)[0].message


@pytest.mark.parametrize('ranks, gpus, refused', [(3, 2, True), (2, 2, False), (None, 2, False), (2, 0, False)])
def test_more_processes_than_gpus_cannot_start(monkeypatch, ranks, gpus, refused):
    monkeypatch.setattr('torch.cuda.is_available', lambda: gpus > 0)
    monkeypatch.setattr('torch.cuda.device_count', lambda: gpus)
    cfg = Config(dict(launcher='pytorch', env_cfg=dict(dist_cfg=dict(backend='gloo'))))
    found = examine(Case(cfg, gpus=3, starting='train', ranks_here=ranks), 'error', needs_only=True)
    found = [finding for finding in found if finding.rule.startswith('missing-')]
    assert [finding.rule for finding in found] == ['missing-gpu'] * refused
    assert not refused or '3 processes were started on this machine, which has 2 GPUs' in found[0].message


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    assert 'mmcv, mmdet, mmdet3d cannot be imported' in problems(needs.check_packages, reference_lidar())[0].message


def test_of_a_planned_training_the_first_missing_path_is_named_and_the_others_counted(tmp_path):
    lidar = reference_lidar()
    lidar.train_dataloader.dataset.dataset.data_root = str(tmp_path / 'nowhere')
    (problem,) = problems(needs.check_data_files, lidar)
    assert f'{tmp_path}/nowhere does not exist' in problem.message and 'more of this kind' in problem.message
    assert 'samples/ and sweeps/' in problem.mend


def test_of_a_run_that_starts_every_missing_path_is_named(tmp_path):
    lidar = reference_lidar()
    lidar.train_dataloader.dataset.dataset.data_root = str(tmp_path / 'nowhere')
    found = problems(needs.check_data_files, lidar, starting='train')
    assert len(found) > 1 and not any('more of this kind' in problem.message for problem in found)


def test_other_data_sets_are_not_asked_for_nuscenes_folders():
    cfg = Config(dict(train_cfg=TRAINING, train_dataloader=dict(dataset=dict(type='CocoDataset', data_root='no/coco'))))
    (problem,) = problems(needs.check_data_files, cfg)
    assert 'no/coco does not exist' in problem.message and 'sweeps' not in problem.message + problem.mend


def test_weights_that_are_absent_are_named_unless_a_checkpoint_is_tested():
    cfg = reference_fusion()
    cfg.load_from = 'no/start.pth'
    cfg.model.img_backbone.init_cfg = dict(type='Pretrained', checkpoint='no/swin.pth')
    text = [problem.message for problem in problems(needs.check_weight_files, cfg)]
    assert len(text) == 2 and 'load_from names' in text[0] and 'model.img_backbone.init_cfg.checkpoint names' in text[1]
    assert not problems(needs.check_weight_files, cfg, starting='test')


@pytest.mark.parametrize('starting, severity', [(None, 'warning'), ('train', 'error')])
def test_what_is_missing_is_an_error_where_the_run_starts_and_a_warning_where_it_is_planned(starting, severity):
    cfg = Config(
        dict(train_cfg=TRAINING, load_from='no/start.pth', train_dataloader=dict(dataset=dict(type='CocoDataset', data_root='no/coco')))
    )
    found = {
        finding.rule: finding.severity
        for finding in examine(Case(cfg, starting=starting), needs_only=True)
        if finding.rule.startswith('missing-')
    }
    assert found == {'missing-data': severity, 'missing-weights': severity}
