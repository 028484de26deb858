"""spconv's interface: against a stand-in everywhere, against spconv-triton's kernels in Triton's interpreter where it is
installed, against both packages on a GPU where there is one."""

import importlib.util
import json
import os
import subprocess
import sys

import interpreted_spconv_triton
import pytest
import torch
from pretended_spconv import pretended_spconv

from bevfusion_plugin.ops.sparse.spconv_convolution import spconv_convolution
from bevfusion_plugin.ops.sparse.tensor import SparseTensor
from bevfusion_plugin.ops.sparse.torch_convolution import torch_convolution
from bevfusion_plugin.ops.sparse.trial import check_against_torch

SUBM = ((1, 1, 1), (1, 1, 1), True)
STRIDED = ((2, 2, 2), (1, 1, 0), False)


def sites_and_weight():
    sites = (torch.rand(2, 8, 7, 9) < 0.1).nonzero().int()
    x = SparseTensor(torch.randn(len(sites), 16, requires_grad=True), sites, (8, 7, 9), 2)
    return x, torch.randn(32, 3, 3, 3, 16, requires_grad=True)


@pytest.mark.parametrize('settings', [SUBM, STRIDED])
def test_it_gives_the_features_sites_and_gradients_of_our_own_code(settings):
    x, weight = sites_and_weight()
    y, expected = spconv_convolution(pretended_spconv(), x, weight, *settings), torch_convolution(x, weight, *settings)
    assert y.spatial_shape == expected.spatial_shape and torch.equal(y.indices, expected.indices)
    assert torch.equal(y.features, expected.features)
    for result, reference in zip(*(torch.autograd.grad(each.features.sum(), (x.features, weight)) for each in (y, expected))):
        assert torch.equal(result, reference)


def test_a_pass_without_gradients_leaves_no_pairs_to_one_with_them():
    x, weight = sites_and_weight()
    spconv = pretended_spconv()
    with torch.no_grad():
        assert not spconv_convolution(spconv, x, weight, *SUBM).features.requires_grad
    spconv_convolution(spconv, x, weight, *SUBM).features.sum().backward()
    assert weight.grad.abs().sum() > 0


def test_two_packages_do_not_share_their_pairs():
    x, weight = sites_and_weight()
    for name in ('spconv.pytorch', 'spconv_triton.pytorch'):
        spconv_convolution(pretended_spconv(name), x, weight, *SUBM)
    assert {key[0] for key in x.cache} == {'spconv.pytorch', 'spconv_triton.pytorch'}


def test_features_and_sites_may_lie_in_memory_as_they_like():
    x, weight = sites_and_weight()
    turned = SparseTensor(x.features.t().contiguous().t(), x.indices.t().contiguous().t(), x.spatial_shape, 2)
    y, expected = (spconv_convolution(pretended_spconv(), each, weight, *STRIDED) for each in (turned, x))
    assert torch.equal(y.features, expected.features)


@pytest.fixture(scope='module')
def interpreted():
    """What the checks raised under Triton's interpreter."""
    for package in ('triton', 'spconv_triton'):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f'needs {package}: pip install --no-deps spconv-triton triton')
    if not hasattr(importlib.import_module('triton.runtime.interpreter').InterpreterBuilder, 'get_int1_ty'):
        pytest.skip('the interpreter of triton 3.0, which torch 2.4 brings, cannot negate a mask')
    environment = dict(os.environ, TRITON_INTERPRET='1', PYTHONPATH=os.pathsep.join(map(str, sys.path)))
    done = subprocess.run([sys.executable, interpreted_spconv_triton.__file__], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize('check', [check.__name__ for check in interpreted_spconv_triton.CHECKS])
def test_spconv_triton_under_the_interpreter(interpreted, check):
    assert not interpreted[check], interpreted[check]


@pytest.fixture
def one_thread():
    """On a CPU spconv is right with one thread only."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize('settings', [SUBM, STRIDED])
def test_spconv_gives_the_features_of_our_own_code_on_a_cpu(settings, one_thread):
    spconv = pytest.importorskip('spconv.pytorch', reason='needs spconv 2')
    x, weight = sites_and_weight()
    with torch.no_grad():
        y, expected = spconv_convolution(spconv, x, weight, *settings), torch_convolution(x, weight, *settings)
    assert y.dense().shape == expected.dense().shape
    assert (y.dense() - expected.dense()).abs().max() < 1e-3 * expected.features.abs().max()


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16])
@pytest.mark.parametrize('package', ['spconv', 'spconv_triton'])
def test_a_package_gives_the_features_and_gradients_of_our_own_code_on_a_gpu(package, dtype):
    check_against_torch(pytest.importorskip(f'{package}.pytorch', reason=f'needs {package}'), torch.device('cuda', 0), dtype)
