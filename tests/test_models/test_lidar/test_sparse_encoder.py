import json

import pytest
import torch
from goldens import assert_close, golden_path, load_golden
from module_goldens import FORWARD, GRADIENT, check_parameters

from bevfusion_plugin.models.lidar.sparse_encoder import BEVFusionSparseEncoder
from bevfusion_plugin.registry import MODELS

CASES = ['sparse_encoder_basicblock', 'sparse_encoder_convmodule']


def build(cfg: dict, **changes) -> BEVFusionSparseEncoder:
    return MODELS.build({**cfg, 'type': 'bevfusion_plugin.BEVFusionSparseEncoder', **changes})


def small_encoder(**changes) -> BEVFusionSparseEncoder:
    return build(load_golden('sparse_encoder_basicblock').meta['cfg'], **changes)


def random_voxels(n: int = 60, sample: int = 0):
    cells = torch.randperm(32 * 32 * 41)[:n]
    coors = torch.stack([torch.full((n,), sample), cells // (32 * 41), cells // 41 % 32, cells % 41], dim=1)
    return torch.randn(n, 5), coors.int()


@pytest.mark.parametrize('mode', ['eval', 'train'])
@pytest.mark.parametrize('name', CASES)
def test_map_gradients_and_statistics_equal_the_reference(name, mode):
    golden = load_golden(name)
    encoder = build(golden.meta['cfg'])
    encoder.load_state_dict(golden.group('sd/'))
    encoder.train(mode == 'train')
    feats = golden['in/feats'].requires_grad_()
    bev = encoder(feats, golden['in/coords'], golden.meta['batch_size'])
    assert_close(bev, golden[f'{mode}/out/bev'], FORWARD, 'bev')
    (bev * golden['cot/bev']).sum().backward()
    assert_close(feats.grad, golden[f'{mode}/gin/feats'], GRADIENT, 'feats')
    check_parameters(encoder, golden, mode)


@pytest.mark.parametrize('name', CASES)
def test_sites_and_features_of_every_stage_equal_the_reference(name):
    golden = load_golden(name)
    encoder = build(golden.meta['cfg'], return_middle_feats=True)
    encoder.load_state_dict(golden.group('sd/'))
    _, stages = encoder.eval()(golden['in/feats'], golden['in/coords'], golden.meta['batch_size'])
    assert len(stages) == len(golden.meta['stats']['stage_sites'])
    for i, stage in enumerate(stages, start=1):
        order = sorted(range(len(stage.indices)), key=stage.indices.tolist().__getitem__)
        assert torch.equal(stage.indices[order].short(), golden[f'out/stage{i}_coords'])
        assert_close(stage.features[order], golden[f'out/stage{i}_feats'], FORWARD, f'stage {i}')
        assert stage.spatial_shape == tuple(golden[f'out/stage{i}_shape'].tolist())


def full_size_encoder() -> BEVFusionSparseEncoder:
    return BEVFusionSparseEncoder(
        in_channels=5,
        sparse_shape=[1440, 1440, 41],
        encoder_channels=((16, 16, 32), (32, 32, 64), (64, 64, 128), (128, 128)),
        encoder_paddings=((0, 0, 1), (0, 0, 1), (0, 0, (1, 1, 0)), (0, 0)),
        block_type='basicblock',
    )


def test_full_size_parameters_equal_the_manifest():
    manifest = json.loads(golden_path('manifest_lidar.json').read_text())
    prefix = 'pts_middle_encoder.'
    encoder = full_size_encoder()
    expected = {
        entry['key'].removeprefix(prefix): (entry['shape'], entry['dtype']) for entry in manifest['keys'] if entry['key'].startswith(prefix)
    }
    actual = {key: (list(value.shape), str(value.dtype).removeprefix('torch.')) for key, value in encoder.state_dict().items()}
    assert actual == expected and len(expected) > 100
    for name, conv in manifest['sparse_convs'].items():
        module = encoder.get_submodule(name.removeprefix(prefix))
        assert type(module).__name__ == conv['type']
        assert [list(module.kernel_size), list(module.stride), list(module.padding)] == [conv['kernel'], conv['stride'], conv['padding']]
    for name, norm in manifest['norm_layers'].items():
        if name.startswith(prefix):
            module = encoder.get_submodule(name.removeprefix(prefix))
            assert type(module).__name__ == norm['type'] and module.eps == norm['eps']
            assert module.momentum == norm['momentum']


def test_module_versions_in_the_metadata_equal_the_manifest():
    versions = json.loads(golden_path('manifest_lidar.json').read_text())['state_dict_metadata_versions']
    metadata = full_size_encoder().state_dict()._metadata
    for version, names in versions.items():
        ours = [name.removeprefix('pts_middle_encoder.') for name in names if name.startswith('pts_middle_encoder.')]
        assert ours and all(metadata[name]['version'] == int(version) for name in ours)


@pytest.mark.parametrize('metadata', [True, False])
def test_a_checkpoint_in_the_old_weight_layout_gives_the_same_map(metadata):
    encoder, other = small_encoder().eval(), small_encoder().eval()
    state = encoder.state_dict()
    for key, value in state.items():
        if value.dim() == 5:
            state[key] = value.permute(1, 2, 3, 4, 0).contiguous()
            state._metadata[key.removesuffix('.weight')]['version'] = 1
    other.load_state_dict(state if metadata else dict(state))
    voxels = random_voxels()
    assert torch.equal(other(*voxels, 1), encoder(*voxels, 1))


def test_a_state_dict_without_metadata_loads():
    encoder, other = small_encoder().eval(), small_encoder().eval()
    other.load_state_dict(dict(encoder.state_dict()))
    voxels = random_voxels()
    assert torch.equal(other(*voxels, 1), encoder(*voxels, 1))


@pytest.mark.parametrize('training', [True, False])
def test_a_batch_without_voxels_is_encoded_and_trains(training):
    encoder = small_encoder().train(training)
    before = {key: value.clone() for key, value in encoder.named_buffers()}
    bev = encoder(torch.zeros(0, 5), torch.zeros(0, 4, dtype=torch.int32), 2)
    assert bev.shape == (2, 12, 4, 4) and not bev.any()
    bev.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in encoder.parameters())
    assert all(torch.equal(value, before[key]) for key, value in encoder.named_buffers())


def test_one_voxel_trains():
    encoder = small_encoder().train()
    bev = encoder(torch.randn(1, 5), torch.tensor([[0, 16, 16, 20]], dtype=torch.int32), 1)
    bev.square().sum().backward()
    assert torch.isfinite(bev).all() and all(torch.isfinite(p.grad).all() for p in encoder.parameters())


def test_batch_size_comes_from_the_argument_and_samples_stay_apart():
    encoder = small_encoder().eval()
    feats, coors = random_voxels(sample=1)
    bev = encoder(feats, coors, 3)
    alone = encoder(feats, coors - torch.tensor([1, 0, 0, 0], dtype=torch.int32), 1)
    assert bev.shape[0] == 3 and not bev[0].any() and not bev[2].any()
    assert torch.equal(bev[1:2], alone) and alone.any()


def test_the_order_of_the_voxels_does_not_matter():
    encoder = small_encoder().eval()
    feats, coors = random_voxels()
    order = torch.randperm(len(feats))
    torch.testing.assert_close(encoder(feats[order], coors[order], 1), encoder(feats, coors, 1))


def test_inputs_stay_as_they_are():
    feats, coors = random_voxels()
    before = feats.clone(), coors.clone()
    small_encoder().train()(feats, coors, 1)
    assert torch.equal(feats, before[0]) and torch.equal(coors, before[1])


def test_autocast_changes_the_map_by_rounding_only():
    encoder = small_encoder().train()
    feats, coors = random_voxels(2000)
    feats[:, :3] += 50  # metres, which bfloat16 would round to a quarter
    expected = encoder(feats, coors, 1)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        bev = encoder(feats, coors, 1)
    bev.float().sum().backward()
    assert bev.dtype == torch.bfloat16
    assert_close(bev.float(), expected, 0.1)
    assert all(p.grad.dtype == torch.float32 and torch.isfinite(p.grad).all() for p in encoder.parameters())


def test_float64_runs():
    feats, coors = random_voxels()
    encoder = small_encoder().eval()
    expected = encoder(feats, coors, 1)
    bev = encoder.double()(feats.double(), coors, 1)
    assert bev.dtype == torch.float64
    assert_close(bev, expected, 1e-5)


def test_an_order_that_does_not_start_with_the_convolution_leaves_it_bare():
    encoder = small_encoder(order=('norm', 'act', 'conv'))
    assert [type(module).__name__ for module in encoder.conv_input] == ['SubMConv3d']
    assert encoder(*random_voxels(), 1).shape == (1, 12, 4, 4)


def test_the_config_stays_as_it_is():
    cfg = load_golden('sparse_encoder_basicblock').meta['cfg']
    before = json.dumps(cfg)
    build(cfg)
    assert json.dumps(cfg) == before


@pytest.mark.parametrize(
    'changes,message',
    [
        (dict(block_type='bottleneck'), "block_type must be .* got 'bottleneck'"),
        (dict(order=('conv', 'norm')), "order must hold 'conv', 'norm' and 'act'"),
        (dict(sparse_shape=[32, 41]), r'sparse_shape must be 3 finite numbers >= 1, got \[32, 41\]; it is \(x, y, z\)'),
        (dict(encoder_paddings=((0, 0, 1),)), r'stages of \[3, 3, 3, 2\] blocks and of \[3\] paddings'),
        (dict(base_channels=5), r'with 5 coming in, .* must start with 5, got \[4, 4, 6\]'),
    ],
)
def test_arguments_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        small_encoder(**changes)


def test_voxels_in_another_axis_order_are_refused():
    feats, coors = random_voxels()
    with pytest.raises(ValueError, match='lies outside the batch and grid'):
        small_encoder()(feats, coors[:, [0, 3, 2, 1]], 1)
