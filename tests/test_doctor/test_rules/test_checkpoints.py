from collections import OrderedDict

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from reference_recipes import reference_fusion, reference_lidar
from torch import nn

from bevfusion_plugin.doctor.case import Case
from bevfusion_plugin.doctor.mend import changed
from bevfusion_plugin.doctor.model_state import build_model_state
from bevfusion_plugin.doctor.rules import checkpoints as checkpoint_rules


class DoctorNet(nn.Module):
    """A backbone and a sparse kernel of layout KRSC: (out, kx, ky, kz, in)."""

    def __init__(self, backbone: dict, pts_middle_encoder: dict | None = None, computes: bool = False) -> None:
        super().__init__()
        self.backbone = nn.Sequential(*(nn.Linear(2, 2) for _ in range(10)))
        self.pts_middle_encoder = nn.Module()
        self.pts_middle_encoder.weight = nn.Parameter(torch.zeros(4, 3, 3, 3, 2))
        if computes:
            self.total = self.backbone[0].weight.sum().item()


@pytest.fixture(autouse=True)
def registered():
    MODELS.register_module(module=DoctorNet, force=True)
    yield
    MODELS.module_dict.pop('DoctorNet')


@pytest.fixture
def cfg(tmp_path):
    """A config that starts from ``tmp_path/start.pth``, which fits."""
    cfg = Config(
        dict(model=dict(type='DoctorNet', backbone=dict(type='X')), train_cfg=dict(max_epochs=1), load_from=str(tmp_path / 'start.pth'))
    )
    save(tmp_path, build_model_state(cfg))
    return cfg


def save(folder, state, name='start.pth'):
    state = OrderedDict((key, torch.zeros(value.shape)) for key, value in state.items())
    torch.save(dict(state_dict=state), folder / name)


def problems(check, cfg, **kwargs):
    return list(check(Case(cfg, **kwargs)))


@pytest.mark.parametrize('computes', [False, True])
def test_a_model_is_known_by_its_names_and_shapes(computes):
    state = build_model_state(Config(dict(model=dict(type='DoctorNet', backbone={}, computes=computes))))
    assert len(state) == 21 and state['backbone.3.weight'].shape == (2, 2)
    assert state['backbone.3.weight'].is_meta is not computes, 'only a model that computes while it is built gets memory'


def test_a_checkpoint_of_the_model_is_fine(cfg):
    assert not problems(checkpoint_rules.check_start_fits, cfg)


@pytest.mark.parametrize('renamed, count', [(1, 0), (3, 1)])
def test_a_checkpoint_that_fits_less_than_95_per_cent_is_an_error(cfg, tmp_path, renamed, count):
    state = list(build_model_state(cfg).items())
    save(tmp_path, {f'other.{key}' if index < renamed else key: value for index, (key, value) in enumerate(state)})
    found = problems(checkpoint_rules.check_start_fits, cfg)
    assert len(found) == count
    if found:
        assert 'only 86% of the 21 tensors' in found[0].message and 'other.' in found[0].message
        assert changed(cfg, found[0].changes).load_from is None
    assert not problems(checkpoint_rules.check_start_fits, cfg, quick=True)


def backbone_config(cfg, tmp_path, **init):
    cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'backbone.pth'), **init)
    return cfg


def test_backbone_weights_are_looked_for_under_the_names_mmengine_uses(cfg, tmp_path):
    own = {key.removeprefix('backbone.'): value for key, value in build_model_state(cfg).items() if key.startswith('backbone')}
    save(tmp_path, own, 'backbone.pth')
    assert not problems(checkpoint_rules.check_backbone_fits, backbone_config(cfg, tmp_path))
    (problem,) = problems(checkpoint_rules.check_backbone_fits, backbone_config(cfg, tmp_path, prefix='backbone'))
    assert 'only 0% of the tensors of model.backbone' in problem.message
    assert changed(cfg, problem.changes).model.backbone.init_cfg is None
    save(tmp_path, {f'backbone.{key}': value for key, value in own.items()}, 'backbone.pth')
    assert not problems(checkpoint_rules.check_backbone_fits, backbone_config(cfg, tmp_path, prefix='backbone.'))
    assert problems(checkpoint_rules.check_backbone_fits, backbone_config(cfg, tmp_path)), 'without prefix none of it is loaded'


def test_swin_weights_go_through_mmdets_converter():
    pytest.importorskip('mmdet')
    state = {'layers.0.blocks.0.attn.qkv.weight': torch.zeros(1), 'head.weight': torch.zeros(1)}
    part = dict(type='mmdet.SwinTransformer', convert_weights=True)
    assert list(checkpoint_rules.as_backbone(part, state)) == ['stages.0.blocks.0.attn.w_msa.qkv.weight']
    converted = {'backbone.stages.0.weight': torch.zeros(1)}
    assert 'stages.0.weight' not in checkpoint_rules.as_backbone(part, converted), 'mmdet prefixes these a second time'
    assert 'stages.0.weight' in checkpoint_rules.as_backbone(dict(part, convert_weights=False), converted)


def test_files_that_are_absent_are_not_read(cfg, tmp_path):
    cfg.load_from = str(tmp_path / 'nowhere.pth')
    backbone_config(cfg, tmp_path)
    assert not problems(checkpoint_rules.check_start_fits, cfg) and not problems(checkpoint_rules.check_backbone_fits, cfg)


def test_the_camera_stage_starts_from_the_lidar_stage():
    cfg = reference_fusion()
    assert not problems(checkpoint_rules.check_lidar_checkpoint, cfg)
    cfg.load_from = None
    assert 'load_from is empty' in problems(checkpoint_rules.check_lidar_checkpoint, cfg)[0].message
    assert not problems(checkpoint_rules.check_lidar_checkpoint, cfg, resume_from='epoch_2.pth')
    assert not problems(checkpoint_rules.check_lidar_checkpoint, reference_lidar())


@pytest.mark.parametrize(
    'init, words',
    [
        (dict(type='Pretrained', checkpoint='swint-nuimages-pretrained.pth'), None),
        (None, 'no pretrained weights'),
        (dict(type='Pretrained', checkpoint='swin_tiny_patch4_window7_224.pth'), 'ImageNet'),
    ],
)
def test_image_weights_are_those_of_nuimages(init, words):
    cfg = reference_fusion()
    cfg.model.img_backbone.init_cfg = init
    found = problems(checkpoint_rules.check_image_weights, cfg)
    assert [words in problem.message for problem in found] == [True] * (words is not None)


@pytest.mark.parametrize(
    'shape, has_spconv, version, seen',
    [
        ((4, 3, 3, 3, 2), True, 2, (4, 3, 3, 3, 2)),
        ((4, 3, 3, 3, 2), True, None, (2, 4, 3, 3, 3)),  # turned a second time
        ((3, 3, 3, 2, 4), True, None, (4, 3, 3, 3, 2)),
        ((3, 3, 3, 2, 4), True, 2, (3, 3, 3, 2, 4)),
        ((4, 3, 3, 3, 2), False, None, (4, 3, 3, 3, 2)),
    ],
)
def test_mmdet3d_turns_kernels_that_are_not_marked_as_version_2(shape, has_spconv, version, seen):
    assert checkpoint_rules.loaded_shape(shape, has_spconv, version) == seen


@pytest.mark.parametrize('shape, marked, count', [((4, 3, 3, 3, 2), True, 0), ((4, 3, 3, 3, 2), False, 1), ((3, 3, 3, 2, 4), False, 0)])
def test_kernels_that_would_be_turned_the_wrong_way_are_noticed(cfg, tmp_path, monkeypatch, shape, marked, count):
    cfg.model.pts_middle_encoder = dict(type='SparseEncoder')
    monkeypatch.setattr('importlib.util.find_spec', lambda name: name)  # as if spconv were installed
    state = OrderedDict({'pts_middle_encoder.weight': torch.zeros(shape)})
    if marked:
        state._metadata = OrderedDict({'pts_middle_encoder': dict(version=2)})
    torch.save(dict(state_dict=state), tmp_path / 'start.pth')
    found = problems(checkpoint_rules.check_kernel_layout, cfg)
    assert len(found) == count and all('pts_middle_encoder.weight (4, 3, 3, 3, 2)' in problem.message for problem in found)
    cfg.model.pts_middle_encoder.type = 'bevfusion_plugin.BEVFusionSparseEncoder'
    assert not problems(checkpoint_rules.check_kernel_layout, cfg), 'ours reads the layout off the shapes'
