import sys

import pytest
import torch

from bevfusion_plugin.ops import SparseConv3d, SparseTensor, SubMConv3d
from bevfusion_plugin.ops.sparse.backend import product_dtype, sparse_backend, spconv_convolution, takes_spconv

CUDA = pytest.param('cuda', marks=pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device'))
KERNEL = (3, 3, 3)


@pytest.fixture
def one_thread():
    """On a CPU spconv is right with one thread only."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def random_tensor(device):
    sites = (torch.rand(2, 8, 7, 9) < 0.1).nonzero().int()
    return SparseTensor(torch.randn(len(sites), 16, device=device), sites.to(device), (8, 7, 9), 2)


def test_torch_computes_on_a_cpu_and_the_reason_is_told():
    name, reason = sparse_backend('cpu')
    assert name == 'torch' and 'CUDA only' in reason
    assert not takes_spconv(torch.zeros(1, 1), KERNEL)


def test_a_missing_spconv_is_told_with_what_brings_it(monkeypatch):
    monkeypatch.setitem(sys.modules, 'spconv', None)
    name, reason = sparse_backend.__wrapped__('cuda')
    assert name == 'torch' and 'cannot be imported' in reason and 'wheel' in reason


def test_product_dtype_is_the_one_of_autocast():
    assert product_dtype(torch.zeros(2, 2)) == torch.float32
    assert product_dtype(torch.zeros(2, 2, dtype=torch.float64)) == torch.float64
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert product_dtype(torch.zeros(2, 2)) == torch.bfloat16
        assert product_dtype(torch.zeros(2, 2, dtype=torch.float64)) == torch.float64


@pytest.mark.parametrize('device', ['cpu', CUDA])
def test_spconv_gives_the_features_of_our_own_code(device, one_thread):
    pytest.importorskip('spconv.pytorch', reason='needs spconv 2')
    x = random_tensor(device)
    strided = SparseConv3d(16, 32, 3, 2, (1, 1, 0), bias=False)
    for conv, subm in ((SubMConv3d(16, 32, 3, bias=False), True), (strided, False)):
        with torch.no_grad():
            expected = conv(SparseTensor(x.features.cpu(), x.indices.cpu(), x.spatial_shape, 2)).dense()
            y = spconv_convolution(conv.to(device), x, subm)
        assert y.dense().shape == expected.shape
        assert (y.dense().cpu() - expected).abs().max() < 1e-3 * expected.abs().max()


@pytest.mark.skipif(not torch.cuda.is_available(), reason='the backward of spconv needs a CUDA device')
def test_spconv_gives_the_gradients_of_our_own_code():
    pytest.importorskip('spconv.pytorch', reason='needs spconv 2')
    conv = SubMConv3d(16, 32, 3)
    x = random_tensor('cpu')
    conv(x).features.square().sum().backward()
    expected, conv.weight.grad = conv.weight.grad, None
    x = SparseTensor(x.features.cuda(), x.indices.cuda(), x.spatial_shape, 2)
    conv.cuda()(x).features.square().sum().backward()
    assert (conv.weight.grad.cpu() - expected).abs().max() < 1e-2 * expected.abs().max()
