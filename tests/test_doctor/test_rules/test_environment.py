import importlib.metadata

import pytest
from mmengine.config import Config
from reference_recipes import reference_fusion, reference_lidar

from bevfusion_plugin.doctor.case import Case
from bevfusion_plugin.doctor.mend import changed
from bevfusion_plugin.doctor.rules import environment as environment_rules

INSTALLED = dict(mmcv='2.1.0', mmdet='3.3.0', mmengine='0.10.7', torch='2.1.0', numpy='1.23.5', pillow='10.4.0')


@pytest.fixture
def installed(monkeypatch):
    """Versions that the rules find; a test may change them."""
    versions = dict(INSTALLED)
    monkeypatch.setattr(environment_rules, 'version', versions.get)
    return versions


def problems(check, cfg, gpus=8):
    return list(check(Case(cfg, gpus)))


@pytest.mark.parametrize('gpu, built, found', [(True, False, 1), (True, True, 0), (False, False, 0)])
def test_a_gpu_needs_mmcvs_operators_for_it(monkeypatch, gpu, built, found):
    monkeypatch.setattr('torch.cuda.is_available', lambda: gpu)
    monkeypatch.setattr(environment_rules, 'has_cuda_operators', lambda: built)
    assert len(problems(environment_rules.check_cuda_operators, reference_lidar())) == found
    assert not problems(environment_rules.check_cuda_operators, Config(dict(default_scope='mmpretrain')))


def test_the_versions_mmdet3d_takes_are_fine(installed):
    assert not problems(environment_rules.check_versions, reference_lidar())


@pytest.mark.parametrize('package, found', [('mmcv', '2.2.0'), ('mmdet', '2.28.0'), ('mmengine', '0.7.0')])
def test_a_version_mmdet3d_refuses_is_named(installed, package, found):
    installed[package] = found
    (problem,) = problems(environment_rules.check_versions, reference_lidar())
    assert f'{package} {found} is installed' in problem.message and 'pip install' in problem.mend
    assert not problems(environment_rules.check_versions, Config(dict(default_scope='mmpretrain')))


@pytest.mark.parametrize('numpy, count', [('1.23.5', 0), ('1.24.0', 1), ('1.26.4', 1), ('2.0.0', 0)])
def test_numpy_without_long_is_noticed_where_objects_are_pasted(installed, numpy, count):
    installed['numpy'] = numpy
    found = problems(environment_rules.check_numpy_long, reference_lidar())
    assert len(found) == count and not problems(environment_rules.check_numpy_long, reference_fusion())
    if found:
        assert not problems(environment_rules.check_numpy_long, changed(reference_lidar(), found[0].changes))


@pytest.mark.parametrize('torch, mmengine, count', [('2.5.1', '0.10.7', 0), ('2.6.0', '0.10.7', 1), ('2.6.0', '0.11.0', 0)])
def test_checkpoints_that_cannot_be_resumed_are_foreseen(installed, torch, mmengine, count):
    installed.update(torch=torch, mmengine=mmengine)
    cfg = Config(dict(train_cfg=dict(max_epochs=1), model=dict(type='X')))
    found = problems(environment_rules.check_resumable, cfg)
    assert len(found) == count
    if found:
        assert not problems(environment_rules.check_resumable, changed(cfg, found[0].changes))


def test_a_config_with_our_parts_can_be_resumed(installed):
    installed['torch'] = '2.6.0'
    cfg = Config(dict(train_cfg=dict(max_epochs=1), optim_wrapper=dict(type='bevfusion_plugin.AccumulativeAmpOptimWrapper')))
    assert not problems(environment_rules.check_resumable, cfg)


@pytest.mark.parametrize(
    'capability, built, runs',
    [
        ((8, 9), ['sm_80', 'sm_86'], True),
        ((9, 0), ['sm_80', 'sm_86'], False),
        ((9, 0), ['sm_80', 'compute_86'], True),
        ((12, 0), ['sm_90', 'sm_120'], True),
        ((6, 1), ['sm_70', 'compute_70'], False),
        ((9, 0), ['sm_90a'], True),
    ],
)
def test_binaries_run_on_their_major_version_and_ptx_on_later_ones(capability, built, runs):
    assert environment_rules.runs_on(capability, built) is runs


def test_a_gpu_without_code_is_noticed(monkeypatch):
    monkeypatch.setattr('torch.cuda.is_available', lambda: True)
    monkeypatch.setattr('torch.cuda.get_device_capability', lambda: (12, 0))
    monkeypatch.setattr('torch.cuda.get_arch_list', lambda: ['sm_80', 'sm_90'])
    assert 'sm_120' in problems(environment_rules.check_gpu_architecture, reference_lidar())[0].message


@pytest.mark.parametrize('ours, imports, count', [(True, None, 1), (False, None, 0), (True, ['bevfusion_plugin'], 0)])
def test_an_mmcv_without_operators_needs_this_package(monkeypatch, ours, imports, count):
    monkeypatch.setattr(environment_rules, 'takes_our_operators', lambda: ours)
    cfg = Config(dict(default_scope='mmdet3d', model=dict(type='CenterPoint')))
    if imports:
        cfg.custom_imports = dict(imports=imports)
    found = problems(environment_rules.check_compiled_operators, cfg)
    assert len(found) == count
    if found:
        assert 'the line `import bevfusion_plugin`' in found[0].mend
        assert not problems(environment_rules.check_compiled_operators, changed(cfg, found[0].changes))


def test_our_operators_need_no_cuda_build(monkeypatch):
    monkeypatch.setattr(environment_rules, 'takes_our_operators', lambda: True)
    assert environment_rules.has_cuda_operators()


def test_mmcv_is_known_under_both_its_names(monkeypatch):
    def distribution_version(name):
        if name != 'mmcv-lite':
            raise importlib.metadata.PackageNotFoundError
        return '2.1.0'

    monkeypatch.setattr(importlib.metadata, 'version', distribution_version)
    assert environment_rules.version('mmcv') == '2.1.0' and environment_rules.version('mmdet') is None


def test_an_extension_that_was_not_built_is_named(monkeypatch):
    monkeypatch.setattr(environment_rules, 'takes_our_operators', lambda: False)
    (problem,) = problems(environment_rules.check_compiled_operators, reference_lidar())
    assert 'custom_imports names projects.BEVFusion' in problem.message
    cfg = reference_lidar()
    cfg.custom_imports.imports = ['bevfusion_plugin']
    assert not problems(environment_rules.check_compiled_operators, cfg)


def test_pillow_resizes_as_it_should_and_another_result_is_noticed(monkeypatch):
    assert not problems(environment_rules.check_pillow, reference_fusion())
    monkeypatch.setattr(environment_rules, 'resized_digest', lambda: '00000000')
    assert 'digest 00000000' in problems(environment_rules.check_pillow, reference_fusion())[0].message
    assert not problems(environment_rules.check_pillow, reference_lidar()), 'no images'


@pytest.mark.parametrize(
    'gpu, native, dtype, severity',
    [
        (True, False, 'bfloat16', 'warning'),
        (True, True, 'bfloat16', None),
        (True, False, 'float16', None),
        (False, False, 'bfloat16', None),
    ],
)
def test_emulated_bfloat16_is_noticed_and_mended(monkeypatch, gpu, native, dtype, severity):
    monkeypatch.setattr('torch.cuda.is_available', lambda: gpu)
    monkeypatch.setattr('torch.cuda.get_device_name', lambda: 'Tesla T4')
    monkeypatch.setattr('torch.cuda.is_bf16_supported', lambda including_emulation=True: native or including_emulation)
    cfg = Config(dict(optim_wrapper=dict(type='bevfusion_plugin.AccumulativeAmpOptimWrapper', dtype=dtype)))
    found = problems(environment_rules.check_bfloat16, cfg)
    assert [problem.severity for problem in found] == [severity] * bool(severity)
    if found:
        assert 'Tesla T4' in found[0].message and not problems(environment_rules.check_bfloat16, changed(cfg, found[0].changes))
        assert [problem.severity for problem in environment_rules.check_bfloat16(Case(cfg, 1, starting='train'))] == [None]
