import copy

import pytest
import torch
from accumulating_ranks import checkpointed_or_not
from detector_goldens import build_detector, in_float64, recorded_batch, total_loss
from gloo_ranks import run_ranks
from goldens import load_golden
from mmdet.models.backbones.swin import SwinBlock
from mmengine.config import Config, ConfigDict
from torch import nn

from bevfusion_plugin.models.bevfusion import CHECKPOINTED
from bevfusion_plugin.models.checkpointing import checkpoint_units, start_checkpointing
from bevfusion_plugin.models.lidar.sparse_encoder import SparseBasicBlock
from bevfusion_plugin.ops.sparse.conv import SparseConv3d, SparseSequential, SubMConv3d
from bevfusion_plugin.ops.sparse.tensor import SparseTensor
from bevfusion_plugin.registry import MODELS, build_nested

EVERYTHING = [*CHECKPOINTED, 'fusion_layer', 'pts_backbone', 'pts_neck']


@pytest.fixture
def golden():
    return load_golden('e2e_lidar_cam')


@pytest.fixture
def demo(request):
    return Config.fromfile(request.config.rootpath / 'configs/bevfusion_demo.py').model


def trained(golden, with_cp):
    """The recorded model in float64 with its gradients, and how often some of its layers ran."""
    model = in_float64(build_detector(golden, 'train'))
    model.checkpoint(with_cp)
    runs = dict.fromkeys(
        (
            'img_backbone.patch_embed',
            'img_neck.lateral_convs.0',
            'view_transform.depthnet',
            'pts_backbone.blocks.0',
            'pts_middle_encoder.conv_input.0',
        ),
        0,
    )
    for name in runs:
        model.get_submodule(name).register_forward_hook(lambda module, args, out, name=name: runs.__setitem__(name, runs[name] + 1))
    data = model.data_preprocessor(recorded_batch(golden), training=True)
    total_loss(model.loss(data['inputs'], data['data_samples'])).backward()
    return model, runs


@pytest.fixture(scope='module')
def without():
    return trained(load_golden('e2e_lidar_cam'), False)


@pytest.mark.parametrize('with_cp', [True, EVERYTHING])
def test_gradients_and_statistics_are_those_without_it(golden, without, with_cp):
    expected, once = without
    model, runs = trained(golden, with_cp)
    for (name, parameter), wanted in zip(model.named_parameters(), expected.parameters()):
        assert (parameter.grad is None) == (wanted.grad is None), name
        assert parameter.grad is None or torch.equal(parameter.grad, wanted.grad), name
    for (name, buffer), wanted in zip(model.named_buffers(), expected.buffers()):
        assert torch.equal(buffer, wanted), name
    assert set(once.values()) == {1}
    again = {'img_neck.lateral_convs.0', 'view_transform.depthnet', 'pts_middle_encoder.conv_input.0'}
    again |= {'pts_backbone.blocks.0'} if with_cp is EVERYTHING else set()
    assert {name for name, count in runs.items() if count == 2} == again  # only the blocks of the backbone run again
    assert list(model.state_dict()) == list(expected.state_dict())


def test_dropout_draws_the_same_numbers_again(demo):
    demo.img_backbone.update(drop_path_rate=0.5, drop_rate=0.3)
    gradients = []
    for with_cp in (False, True):
        torch.manual_seed(0)
        model = build_nested(MODELS, copy.deepcopy(demo)).double().train()
        model.checkpoint(with_cp)
        model.img_backbone(torch.rand(2, 3, 64, 192, dtype=torch.float64))[-1].square().sum().backward()
        gradients.append([p.grad for p in model.img_backbone.parameters()])
        numbers = torch.rand(3)
    assert all(torch.equal(a, b) for a, b in zip(*gradients) if a is not None)
    torch.manual_seed(0)
    model = build_nested(MODELS, copy.deepcopy(demo)).double().train()
    model.img_backbone(torch.rand(2, 3, 64, 192, dtype=torch.float64))
    assert torch.equal(numbers, torch.rand(3)), 'the generator goes on as without it'


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_under_autocast_gradients_are_those_without_it(golden, dtype):
    found = []
    for with_cp in (False, True):
        model = build_detector(golden, 'train')
        model.checkpoint(with_cp)
        data = model.data_preprocessor(copy.deepcopy(recorded_batch(golden)), training=True)
        with torch.autocast('cpu', dtype):
            loss = total_loss(model.loss(data['inputs'], data['data_samples']))
        loss.backward()
        found.append([p.grad for p in model.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*found))


def test_sparse_tensors_go_in_and_out_and_their_pairs_are_found_once():
    sites = (torch.rand(1, 6, 6, 6) < 0.3).nonzero().int()
    block = SparseBasicBlock(4, dict(type='BN1d')).double()
    found = []
    for checkpointed in (False, True):
        unit = copy.deepcopy(block)
        if checkpointed:
            start_checkpointing(unit)
        torch.manual_seed(0)
        features = torch.rand(len(sites), 4, dtype=torch.float64, requires_grad=True)
        x = SparseTensor(features, sites, (6, 6, 6), 1)
        y = unit(x)
        tables = dict(y.cache)
        y.features.square().sum().backward()
        assert tables and y.cache.keys() == tables.keys() and all(y.cache[key] is tables[key] for key in tables)
        found.append([y.features.detach(), features.grad, *(p.grad for p in unit.parameters()), *unit.buffers()])
    assert all(torch.equal(a, b) for a, b in zip(*found))


def test_ranks_that_accumulate_get_the_gradients_and_statistics_that_they_get_without_it():
    for result in run_ranks(2, checkpointed_or_not):
        plain, again = result['plain'], result['checkpointed']
        assert again['runs'] == 2 * plain['runs'] and again['rounds'] == plain['rounds'] == 2
        for key in ('gradients', 'buffers'):
            assert all(torch.equal(a, b) for a, b in zip(again[key], plain[key], strict=True))


def test_a_copy_runs_its_own_weights():
    original = nn.Sequential(nn.Linear(3, 3))
    start_checkpointing(original)
    copied = copy.deepcopy(original)
    nn.init.zeros_(copied[0].weight)
    nn.init.zeros_(copied[0].bias)
    assert not copied(torch.ones(2, 3, requires_grad=True)).any()


def test_units_are_the_blocks_of_a_backbone_and_what_keeps_its_sites_in_an_encoder(demo):
    model = build_nested(MODELS, demo)
    assert {type(unit) for unit in checkpoint_units(model.img_backbone)} == {SwinBlock}
    units = checkpoint_units(model.pts_middle_encoder)
    inside = {module for unit in units for module in unit.modules()}
    for module in model.pts_middle_encoder.modules():
        assert (module in inside) or not isinstance(module, SubMConv3d), 'each submanifold convolution lies in one'
        assert module not in inside or not isinstance(module, SparseConv3d)
    assert checkpoint_units(model.img_neck) == [model.img_neck]
    resnet = build_nested(MODELS, ConfigDict(type='mmdet.ResNet', depth=18))
    assert len(checkpoint_units(resnet)) == 8 and not any(unit.with_cp for unit in checkpoint_units(resnet))
    assert not checkpoint_units(SparseSequential(SparseConv3d(2, 2, 3)))


def test_the_config_switches_it_on_and_names_of_no_part_are_refused(demo):
    on = build_nested(MODELS, dict(copy.deepcopy(demo), with_cp=True))
    assert sum(hasattr(module, 'is_run_again') for module in on.modules()) > 5
    lidar = dict(copy.deepcopy(demo), img_backbone=None, img_neck=None, view_transform=None, fusion_layer=None, with_cp=True)
    lidar['pts_backbone'] = dict(lidar['pts_backbone'], in_channels=64)
    assert any(hasattr(module, 'is_run_again') for module in build_nested(MODELS, lidar).pts_middle_encoder.modules())
    for wrong in ('img_backbone', ['bbox_head'], ['no_such_part']):
        with pytest.raises(ValueError, match='with_cp must be True, False or a list of parts of this model, img_backbone, .*; got'):
            build_nested(MODELS, dict(copy.deepcopy(demo), with_cp=wrong))


def test_predictions_keep_nothing_to_run_again(golden):
    model = build_detector(golden)
    model.checkpoint(True)
    data = model.data_preprocessor(recorded_batch(golden), training=False)
    with torch.no_grad():
        boxes = model.predict(data['inputs'], data['data_samples'])[0].pred_instances_3d.bboxes_3d.tensor
    assert torch.allclose(boxes, golden['predict/boxes0'], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('voxels', [0, 1])
def test_a_batch_of_hardly_any_voxels_trains(demo, voxels):
    model = build_nested(MODELS, dict(copy.deepcopy(demo), with_cp=True)).train()
    coords = torch.tensor([[0, 5, 5, 5]])[:voxels]
    model.pts_middle_encoder(torch.rand(voxels, 5), coords, 1).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.pts_middle_encoder.parameters())
