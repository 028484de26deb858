import logging

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bevfusion_plugin.ops import SparseConv3d, SparseSequential, SparseTensor, SubMConv3d
from bevfusion_plugin.ops.sparse.conv import weight_to_krsc
from bevfusion_plugin.ops.sparse import torch_convolution
from bevfusion_plugin.ops.sparse.kernel_map import subm_map

SHAPE = (6, 5, 7)
STRIDED = [  # kernel, stride, padding
    ((3, 3, 3), (2, 2, 2), (1, 1, 1)),
    ((3, 3, 3), (2, 2, 2), (1, 1, 0)),
    ((1, 1, 3), (1, 1, 2), (0, 0, 0)),
    ((2, 3, 1), (3, 1, 2), (1, 0, 2)),
    ((3, 3, 3), (1, 1, 1), (1, 1, 1)),
    ((1, 1, 1), (1, 1, 1), (0, 0, 0)),
]


@pytest.fixture(params=['OffsetByOffset', 'AllOffsets'], autouse=True)
def form(request, monkeypatch):
    """Both forms, that of a CPU and that of a GPU, do all that is tested here."""
    monkeypatch.setattr(torch_convolution, 'OffsetByOffset', getattr(torch_convolution, request.param))
    return request.param


def random_sites(density=0.15, batch_size=2, shape=SHAPE):
    """(V, 4) sites in random order."""
    sites = (torch.rand(batch_size, *shape) < density).nonzero().int()
    return sites[torch.randperm(len(sites))]


def random_tensor(channels=3, dtype=torch.float64, **kwargs):
    sites = random_sites(**kwargs)
    features = torch.randn(len(sites), channels, dtype=dtype, requires_grad=True)
    return SparseTensor(features, sites, kwargs.get('shape', SHAPE), kwargs.get('batch_size', 2))


def occupancy(x):
    return x.replace_feature(torch.ones_like(x.features[:, :1])).dense()


def dense_weight(conv):
    return conv.weight.permute(0, 4, 1, 2, 3)


@pytest.mark.parametrize('kernel,stride,padding', STRIDED)
def test_strided_convolution_equals_the_dense_one_with_gradients(kernel, stride, padding):
    x, conv = random_tensor(), SparseConv3d(3, 4, kernel, stride, padding, bias=False).double()
    y = conv(x)
    expected = F.conv3d(x.dense(), dense_weight(conv), stride=stride, padding=padding)
    assert y.spatial_shape == expected.shape[2:]
    torch.testing.assert_close(y.dense(), expected)
    cotangent = torch.randn_like(expected)
    leaves = x.features, conv.weight
    for result, reference in zip(torch.autograd.grad(y.dense(), leaves, cotangent), torch.autograd.grad(expected, leaves, cotangent)):
        torch.testing.assert_close(result, reference)


@pytest.mark.parametrize('kernel,stride,padding', STRIDED)
def test_an_output_site_is_active_where_the_kernel_reaches_an_input_site(kernel, stride, padding):
    x = random_tensor(density=0.03)
    y = SparseConv3d(3, 4, kernel, stride, padding).double()(x)
    reached = F.conv3d(occupancy(x), torch.ones(1, 1, *kernel, dtype=torch.float64), stride=stride, padding=padding)
    assert torch.equal(y.indices, (reached[:, 0] > 0.5).nonzero().int())


@pytest.mark.parametrize('kernel', [(3, 3, 3), (1, 1, 3), (5, 1, 3), (1, 1, 1)])
def test_submanifold_convolution_equals_the_dense_one_at_its_sites_with_gradients(kernel):
    x, conv = random_tensor(), SubMConv3d(3, 4, kernel).double()
    y = conv(x)
    expected = F.conv3d(x.dense(), dense_weight(conv), conv.bias, padding=[k // 2 for k in kernel]) * occupancy(x)
    assert y.indices is x.indices
    torch.testing.assert_close(y.dense(), expected)
    cotangent = torch.randn_like(expected)
    leaves = x.features, conv.weight, conv.bias
    for result, reference in zip(torch.autograd.grad(y.dense(), leaves, cotangent), torch.autograd.grad(expected, leaves, cotangent)):
        torch.testing.assert_close(result, reference)


def test_gradients_are_right_numerically():
    sites = random_sites(density=0.05)
    kernel_map = subm_map(sites, 2, SHAPE, (3, 3, 3))
    features = torch.randn(len(sites), 2, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 3, 3, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda f, w: torch_convolution.sparse_convolution(f, w, kernel_map), (features, weight))


@pytest.mark.parametrize('form', ['AllOffsets'], indirect=True)
@pytest.mark.parametrize('values', [1, 500])
def test_a_large_batch_is_gathered_in_parts(form, values, monkeypatch):
    x, conv = random_tensor(), SparseConv3d(3, 4, 3, 2, 1).double()
    leaves = x.features, conv.weight
    expected = conv(x).features
    gradients = torch.autograd.grad(expected.square().sum(), leaves)
    monkeypatch.setattr(torch_convolution, 'GATHERED_VALUES', values)
    y = conv(x).features
    torch.testing.assert_close(y, expected)
    for result, reference in zip(torch.autograd.grad(y.square().sum(), leaves), gradients):
        torch.testing.assert_close(result, reference)


def test_kernel_reaches_no_further_than_the_grid_and_the_sample():
    # The last site of a row, a layer or a sample and the first one of the next are neighbours in memory only.
    corners = [[0, 1, 1, 1], [0, 0, 0, 2], [0, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0]]
    x = SparseTensor(torch.ones(5, 1), torch.tensor(corners, dtype=torch.int32), (2, 2, 3), 2)
    conv = SubMConv3d(1, 1, (1, 1, 3), bias=False)
    nn.init.ones_(conv.weight)
    assert conv(x).features.flatten().tolist() == [1.0] * 5


def test_no_site_gives_no_site_and_zero_gradients():
    x = SparseTensor(torch.zeros(0, 3, requires_grad=True), torch.zeros(0, 4, dtype=torch.int32), SHAPE, 2)
    layers = SparseSequential(SubMConv3d(3, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), SparseConv3d(4, 5, 3, 2, 1))
    y = layers(x)
    assert y.features.shape == (0, 5) and y.dense().shape == (2, 5, 3, 3, 4) and not y.dense().any()
    y.dense().sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in layers.parameters())


def test_a_sample_without_sites_does_not_change_the_others():
    sites = random_sites(batch_size=1)
    features = torch.randn(len(sites), 3, dtype=torch.float64)
    conv = SparseConv3d(3, 4, 3, 2, 1).double()
    alone = conv(SparseTensor(features, sites, SHAPE, 1)).dense()
    middle = sites + torch.tensor([1, 0, 0, 0], dtype=torch.int32)
    together = conv(SparseTensor(features, middle, SHAPE, 3)).dense()
    assert torch.equal(together[1:2], alone) and not together[0].any() and not together[2].any()


def test_inputs_stay_as_they_are():
    x = random_tensor()
    before = x.features.clone(), x.indices.clone()
    y = SparseSequential(SubMConv3d(3, 3, 3), nn.ReLU(inplace=True), SparseConv3d(3, 3, 3, 2, 1)).double()(x)
    y.features.sum().backward()
    assert torch.equal(x.features, before[0]) and torch.equal(x.indices, before[1])


def test_pairs_are_found_once_for_a_set_of_sites(monkeypatch):
    calls = []

    def counted(*args):
        calls.append(args)
        return subm_map(*args)

    monkeypatch.setattr('bevfusion_plugin.ops.sparse.torch_convolution.subm_map', counted)
    SparseSequential(*[SubMConv3d(3, 3, 3).double() for _ in range(3)])(random_tensor())
    assert len(calls) == 1


def test_autocast_multiplies_in_low_precision_and_gives_float32_gradients():
    x, conv = random_tensor(16, torch.float32), SubMConv3d(16, 8, 3)
    expected = conv(x).features
    grads = torch.autograd.grad(expected.square().sum(), (x.features, conv.weight))
    with torch.autocast('cpu', dtype=torch.bfloat16):
        y = conv(x).features
    low_grads = torch.autograd.grad(y.float().square().sum(), (x.features, conv.weight))
    assert y.dtype == torch.bfloat16
    for low, full in ((y.float(), expected), *zip(low_grads, grads)):
        assert low.dtype == torch.float32
        assert (low - full).abs().max() < 0.03 * full.abs().max()


@pytest.mark.parametrize('n_sites', [0, 1])
def test_batch_norm_in_training_uses_running_statistics_below_two_sites(n_sites, caplog):
    norm = nn.BatchNorm1d(2)
    norm.running_mean += 3
    layers = SparseSequential(norm)
    x = SparseTensor(torch.ones(n_sites, 2), torch.zeros(n_sites, 4, dtype=torch.int32), SHAPE, 1)
    y = layers(x).features
    torch.testing.assert_close(y, torch.full((n_sites, 2), -2.0), atol=1e-4, rtol=0)
    assert norm.running_mean.tolist() == [3.0, 3.0] and norm.num_batches_tracked == 0


def test_batch_norm_without_batch_statistics_says_so_once(caplog):
    from bevfusion_plugin.ops.sparse.conv import _warn_few_sites

    _warn_few_sites.cache_clear()
    x = SparseTensor(torch.ones(1, 2), torch.zeros(1, 4, dtype=torch.int32), SHAPE, 1)
    with caplog.at_level(logging.WARNING):
        SparseSequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2))(x)
    assert caplog.text.count('running statistics') == 1


def test_weights_start_within_the_kaiming_bound():
    torch.manual_seed(0)
    conv = SubMConv3d(16, 32, 3)
    bound = (16 * 27) ** -0.5
    assert 0.98 * bound < conv.weight.abs().max() <= bound and conv.bias.abs().max() <= bound
    assert abs(conv.weight.std().item() * 3**0.5 / bound - 1) < 0.02


def old_layout(weight):
    return weight.permute(1, 2, 3, 4, 0).contiguous()


@pytest.mark.parametrize('version', [None, 1, 2])
def test_the_shape_tells_the_weight_layouts_apart(version):
    weight = torch.randn(4, 3, 3, 3, 2)
    assert weight_to_krsc(weight, weight.shape, version) is weight
    assert torch.equal(weight_to_krsc(old_layout(weight), weight.shape, version), weight)


def test_the_version_tells_the_layouts_apart_where_all_sizes_are_equal():
    weight = torch.randn(3, 3, 3, 3, 3)
    assert torch.equal(weight_to_krsc(old_layout(weight), weight.shape, 1), weight)
    assert weight_to_krsc(weight, weight.shape, 2) is weight
    assert weight_to_krsc(weight, weight.shape, None) is weight


@pytest.mark.parametrize('channels', [(2, 4), (3, 3)])
def test_a_state_dict_loads_with_and_without_metadata(channels):
    conv, other = SubMConv3d(*channels, 3), SubMConv3d(*channels, 3)
    state = conv.state_dict()
    assert state._metadata['']['version'] == 2
    for saved in (state, dict(state)):
        other.reset_parameters()
        other.load_state_dict(saved)
        assert torch.equal(other.weight, conv.weight)


@pytest.mark.parametrize('channels', [(2, 4), (3, 3)])
def test_a_state_dict_in_the_old_layout_loads_and_stays_as_it_is(channels):
    conv, other = SubMConv3d(*channels, 3), SubMConv3d(*channels, 3)
    state = conv.state_dict()
    state['weight'] = old_layout(state['weight'])
    state._metadata['']['version'] = 1
    saved = state['weight'].clone()
    other.load_state_dict(state)
    assert torch.equal(other.weight, conv.weight) and torch.equal(state['weight'], saved)


def test_a_weight_of_another_size_is_refused():
    with pytest.raises(RuntimeError, match='size mismatch'):
        SubMConv3d(2, 4, 3).load_state_dict(SubMConv3d(2, 5, 3).state_dict())


def test_an_even_submanifold_kernel_is_refused():
    with pytest.raises(ValueError, match='must be odd, got'):
        SubMConv3d(2, 2, (3, 2, 3))


@pytest.mark.parametrize('padding', [(1, 1), 0.5])
def test_a_padding_that_is_not_an_int_or_three_is_refused(padding):
    with pytest.raises(ValueError, match='padding must be an int or 3'):
        SparseConv3d(2, 2, 3, padding=padding)


def test_a_kernel_larger_than_the_padded_grid_is_refused():
    with pytest.raises(ValueError, match='does not fit into the grid'):
        SparseConv3d(3, 2, 7, padding=0).double()(random_tensor())
