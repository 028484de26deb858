"""What the doctor says about whole recipes: the published ones and ours. Exact sets, so that no rule cries wolf."""

from pathlib import Path

import pytest
from mmengine.config import Config
from reference_recipes import reference_fusion, reference_lidar

from bevfusion_plugin.doctor import case as case_module
from bevfusion_plugin.doctor.case import Case
from bevfusion_plugin.doctor.examination import examine
from bevfusion_plugin.doctor.reading.voxel_grid import voxel_grid
from bevfusion_plugin.doctor.rules import environment as environment_rules
from bevfusion_plugin.doctor.rules import model as model_rules

CONFIGS = Path(__file__).parents[2] / 'configs'
OURS = sorted(path.name for path in CONFIGS.glob('bevfusion*.py'))
INSTALLED = dict(mmcv='2.1.0', mmdet='3.3.0', mmengine='0.10.7', torch='2.1.0', numpy='1.26.4', pillow='10.4.0')
HERE = {'missing-data', 'missing-gpu'}  # of any machine without data and GPU
NUSCENES = HERE | {'evaluation-outlasts-timeout'}  # and of any recipe for it that is not ours
UNSYNCHRONISED = 'unsynchronised-batchnorm'


@pytest.fixture(autouse=True)
def bare_machine(monkeypatch, tmp_path):
    """No GPU, no data, fixed versions; and short traces, which keep the shape of every schedule."""
    monkeypatch.delenv('NUSCENES_SAMPLE', raising=False)
    monkeypatch.setattr('torch.cuda.is_available', lambda: False)
    monkeypatch.setattr(environment_rules, 'version', INSTALLED.get)
    monkeypatch.setattr(environment_rules, 'takes_our_operators', lambda: False)
    monkeypatch.setattr(case_module, 'QUICK_BATCHES', 200)
    monkeypatch.chdir(tmp_path)


def packaged(name):
    mmdet3d = pytest.importorskip('mmdet3d')
    return Config.fromfile(Path(mmdet3d.__file__).parent / '.mim' / 'configs' / name)


def found(cfg, gpus=None, **kwargs):
    """{severity: names of the rules}."""
    result = dict(error=set(), warning=set(), info=set())
    for finding in examine(Case(cfg, gpus, quick=True, **kwargs)):
        assert 'could not be decided' not in finding.message, finding.message
        result[finding.severity].add(finding.rule)
    return result


def test_the_reference_lidar_recipe_on_its_own_machine():
    assert found(reference_lidar(), 8) == dict(
        error={'beta1-too-high', 'numpy-without-long'},
        warning=NUSCENES | {UNSYNCHRONISED, 'random-test-sweeps', 'operators-not-compiled'},
        info=set(),
    )


def test_the_reference_fusion_recipe_on_its_own_machine():
    assert found(reference_fusion(), 8) == dict(
        error={'beta1-too-high'},
        warning=NUSCENES | {UNSYNCHRONISED, 'random-test-sweeps', 'operators-not-compiled', 'missing-weights'},
        info={'gpu-memory'},
    )


def test_the_reference_on_half_the_gpus_is_told_to_scale():
    assert found(reference_fusion(), 4)['warning'] - found(reference_fusion(), 8)['warning'] == {'lr-off-the-batch'}
    # 1 GPU: 4 samples at the learning rate of 32, eight times the linear rule's
    assert found(reference_fusion(), 1)['error'] == {'beta1-too-high', 'lr-off-the-batch'}


def test_three_samples_on_four_gpus_as_reported_with_62_8_map():
    cfg = reference_fusion()
    cfg.train_dataloader.batch_size = 3
    assert found(cfg, 4)['error'] == {'beta1-too-high', 'lr-off-the-batch'}  # mit-han-lab/bevfusion#619


def test_ten_epochs_with_the_schedule_of_six():
    cfg = reference_fusion()
    cfg.train_cfg.max_epochs = 10
    assert found(cfg, 8)['error'] == {'beta1-too-high', 'schedule-ends-early'}  # mmdetection3d#2967


def test_the_stock_lr_scaling_does_not_reach_the_lidar_recipes_peak():
    cfg = reference_lidar()
    cfg.auto_scale_lr.enable = True
    assert 'absolute-lr-not-scaled' in found(cfg, 4)['error']  # mmdetection3d#3103


def test_accumulation_is_left_out_by_the_stock_lr_scaling():
    cfg = reference_fusion()
    cfg.auto_scale_lr.enable = True
    cfg.optim_wrapper.accumulative_counts = 2
    assert 'accumulation-not-scaled' in found(cfg, 4)['error']


@pytest.mark.parametrize(
    'name, gpus, expected',
    [
        (
            'centerpoint/centerpoint_voxel0075_second_secfpn_8xb4-cyclic-20e_nus-3d.py',
            8,
            dict(
                error={'beta1-too-high', 'numpy-without-long'},
                warning=NUSCENES | {UNSYNCHRONISED, 'random-test-sweeps'},
                info={'paste-never-ends'},
            ),
        ),
        (
            'centerpoint/centerpoint_pillar02_second_secfpn_8xb4-cyclic-20e_nus-3d.py',
            8,
            dict(
                error={'beta1-too-high', 'numpy-without-long'},
                warning=NUSCENES | {UNSYNCHRONISED, 'random-test-sweeps'},
                info={'paste-never-ends'},
            ),
        ),
        ('pointpillars/pointpillars_hv_secfpn_sbn-all_8xb4-2x_nus-3d.py', 8, dict(error=set(), warning=NUSCENES, info=set())),
        (
            'pointpillars/pointpillars_hv_secfpn_sbn-all_8xb2-amp-2x_nus-3d.py',
            8,
            dict(error=set(), warning=NUSCENES | {'lr-off-the-batch', 'unwatched-float16'}, info=set()),
        ),
        (
            'free_anchor/pointpillars_hv_regnet-1.6gf_fpn_head-free-anchor_sbn-all_8xb4-strong-aug-3x_nus-3d.py',
            8,
            dict(error={'schedule-ends-early'}, warning=NUSCENES, info=set()),
        ),
        (
            'second/second_hv_secfpn_8xb6-80e_kitti-3d-3class.py',
            8,
            dict(error={'beta1-too-high', 'numpy-without-long'}, warning=HERE, info=set()),
        ),
        ('fcos3d/fcos3d_r101-caffe-dcn_fpn_head-gn_8xb2-1x_nus-mono3d.py', 8, dict(error=set(), warning=NUSCENES, info=set())),
        ('votenet/votenet_8xb16_sunrgbd-3d.py', 8, dict(error=set(), warning=HERE | {UNSYNCHRONISED}, info=set())),
    ],
)
def test_packaged_configs_have_exactly_these_findings(name, gpus, expected):
    assert found(packaged(name), gpus) == expected


@pytest.mark.parametrize(
    'name',
    [
        'centerpoint/centerpoint_voxel01_second_secfpn_8xb4-cyclic-20e_nus-3d.py',
        'mvxnet/mvxnet_fpn_dv_second_secfpn_8xb2-80e_kitti-3d-3class.py',
        'parta2/parta2_hv_secfpn_8xb2-cyclic-80e_kitti-3d-car.py',
        'pv_rcnn/pv_rcnn_8xb2-80e_kitti-3d-3class.py',
        'second/second_hv_secfpn_8xb6-80e_kitti-3d-car.py',
    ],
)
def test_packaged_models_are_not_accused_of_wrong_grids(name):
    checks = [value for key, value in vars(model_rules).items() if key.startswith('check_')]
    cfg = packaged(name)
    assert voxel_grid(cfg) is not None or 'mvxnet' in name, 'else nothing was examined'
    assert not [problem.message for check in checks for problem in check(Case(cfg, 8, quick=True))]


@pytest.mark.parametrize('name', OURS)
def test_our_recipes_have_no_error(name):
    assert found(Config.fromfile(CONFIGS / name))['error'] == set()


def test_the_main_recipes_warnings_are_those_its_docstring_speaks_of():
    assert found(Config.fromfile(CONFIGS / 'bevfusion_4x4090.py')) == dict(
        error=set(),
        warning=HERE | {'lr-off-the-batch', 'few-updates', 'accumulated-batchnorm', 'missing-weights'},
        info={'partial-window', 'small-adam-eps'},
    )


def test_the_recipe_of_the_reference_batch_is_left_with_its_batchnorm():
    cfg = Config.fromfile(CONFIGS / 'bevfusion_4x4090_b32.py')
    assert found(cfg) == found(Config.fromfile(CONFIGS / 'bevfusion.py'), 4)
    assert found(cfg)['warning'] == HERE | {'accumulated-batchnorm', 'missing-weights'}


def test_configs_of_other_projects_are_examined_too():
    mmdet = pytest.importorskip('mmdet')
    cfg = Config.fromfile(Path(mmdet.__file__).parent / '.mim' / 'configs' / 'faster_rcnn' / 'faster-rcnn_r50_fpn_1x_coco.py')
    assert found(cfg, 8)['error'] == set()
    cfg.train_cfg.max_epochs = 24  # the steps at 8 and 11 stay
    assert found(cfg, 8)['error'] == {'schedule-ends-early'}
    classifier = Config(
        dict(  # in the manner of mmpretrain, which is not installed
            default_scope='mmpretrain',
            model=dict(type='ImageClassifier', backbone=dict(type='ResNet', depth=50)),
            train_dataloader=dict(batch_size=32, num_workers=4, dataset=dict(type='ImageNet', data_root='')),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9)),
            auto_scale_lr=dict(base_batch_size=256),
            param_scheduler=dict(type='MultiStepLR', by_epoch=True, milestones=[30, 60, 90], gamma=0.1),
            train_cfg=dict(by_epoch=True, max_epochs=100),
        )
    )
    assert found(classifier, 8)['error'] == set() and found(classifier, 2)['error'] == {'lr-off-the-batch'}
