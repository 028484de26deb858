import sys
from types import ModuleType

import pytest
import torch
from pretended_spconv import WRONG, pretended_spconv

from bevfusion_plugin.ops import SparseConv3d, SparseTensor, SubMConv3d
from bevfusion_plugin.ops.sparse import backend, trial
from bevfusion_plugin.ops.sparse.backend import SparseBackend, product_dtype, sparse_backend
from bevfusion_plugin.ops.sparse.trial import check_against_torch

CPU, GPU = torch.device('cpu'), torch.device('cuda', 0)
BROKEN = [
    OSError('libnvrtc.so.12: cannot open shared object file'),
    RuntimeError('CUDA error: no kernel image is available for execution on the device\nCompile with ...'),
    ImportError('undefined symbol'),
    ModuleNotFoundError("No module named 'triton'", name='triton'),
    ModuleNotFoundError('of a loader that gives no name'),
    AssertionError(),
]


@pytest.fixture(autouse=True)
def nothing_chosen(monkeypatch):
    monkeypatch.delenv(backend.VARIABLE, raising=False)
    sparse_backend.cache_clear()
    yield
    sparse_backend.cache_clear()


@pytest.fixture
def logged(monkeypatch):
    messages = []
    monkeypatch.setattr(backend, 'print_log', lambda message, **kwargs: messages.append(message))
    return messages


def install(monkeypatch, name, change=lambda weight: weight):
    """A package that computes with our own code after ``change``."""
    package = ModuleType(name)
    package.__version__ = '1.2.3'
    package.pytorch = pretended_spconv(f'{name}.pytorch', change)
    monkeypatch.setitem(sys.modules, name, package)
    monkeypatch.setitem(sys.modules, f'{name}.pytorch', package.pytorch)
    return package.pytorch


@pytest.fixture
def installed(monkeypatch):
    """Both packages, tried on the CPU for the GPU that is not here."""
    monkeypatch.setattr(trial, 'SHAPE', (8, 8, 8))
    monkeypatch.setattr(backend, 'check_against_torch', lambda module, device, dtype: check_against_torch(module, CPU, dtype))
    return {name: install(monkeypatch, name) for name in backend.PACKAGES}


def breaks(monkeypatch, broken, error):
    """The packages called ``broken`` raise ``error`` when they are tried."""

    def check(module, device, dtype):
        if module.__name__.removesuffix('.pytorch') in broken:
            raise error

    monkeypatch.setattr(backend, 'check_against_torch', check)


def test_torch_computes_on_a_cpu_and_the_reason_is_told(installed):
    assert sparse_backend(CPU, torch.float32) == ('torch', None, 'spconv and spconv_triton train on CUDA only')


def test_spconv_is_the_first_choice_on_cuda(installed):
    assert sparse_backend(GPU, torch.float32) == ('spconv', installed['spconv'], 'version 1.2.3 passed a trial')


@pytest.mark.parametrize('error', BROKEN, ids=lambda error: type(error).__name__)
def test_a_spconv_that_does_not_work_here_leaves_the_work_to_spconv_triton(installed, monkeypatch, error):
    breaks(monkeypatch, ['spconv'], error)
    name, module, reason = sparse_backend(GPU, torch.float32)
    assert name == 'spconv_triton' and module is installed['spconv_triton']
    assert f'spconv does not work here ({type(error).__name__}: {error}'.partition('\n')[0] in reason and '\n' not in reason


@pytest.mark.parametrize('change', WRONG)
def test_a_spconv_with_wrong_numbers_leaves_the_work_to_spconv_triton(installed, monkeypatch, change):
    install(monkeypatch, 'spconv', WRONG[change])
    name, _, reason = sparse_backend(GPU, torch.float16)
    assert name == 'spconv_triton' and 'off by' in reason


@pytest.mark.parametrize('error', BROKEN, ids=lambda error: type(error).__name__)
def test_torch_computes_where_neither_package_works(installed, monkeypatch, error):
    breaks(monkeypatch, ['spconv', 'spconv_triton'], error)
    name, module, reason = sparse_backend(GPU, torch.float32)
    assert (name, module) == ('torch', None) and reason.count(type(error).__name__) == 2


def test_missing_packages_are_told_with_what_brings_them(monkeypatch):
    for package in backend.PACKAGES:
        monkeypatch.setitem(sys.modules, package, None)
    assert sparse_backend(GPU, torch.float32) == (
        'torch',
        None,
        'spconv is not installed (install the wheel for your CUDA, such as spconv-cu120); '
        'spconv_triton is not installed (pip install spconv-triton)',
    )


def test_the_choice_is_logged_once_for_each_precision(installed, logged):
    for _ in range(3):
        sparse_backend(GPU, torch.float32)
    assert logged == [
        'trying spconv 1.2.3 in float32 on cuda:0; compiling its kernels may take minutes the first time',
        'sparse convolutions in float32 on cuda:0 run in spconv: version 1.2.3 passed a trial',
    ]
    sparse_backend(GPU, torch.float16)
    assert len(logged) == 4 and 'in float16 on cuda:0 run in spconv' in logged[3]


@pytest.mark.parametrize('name', ['torch', 'spconv', 'spconv_triton'])
def test_the_variable_names_the_backend(installed, logged, monkeypatch, name):
    monkeypatch.setenv(backend.VARIABLE, name)
    chosen = sparse_backend(GPU, torch.float32)
    assert chosen.name == name and chosen.module is installed.get(name)
    assert f'run in {name}: BEVFUSION_SPARSE_BACKEND={name}' in logged[-1]


def test_the_variable_may_ask_for_torch_on_a_cpu(monkeypatch):
    monkeypatch.setenv(backend.VARIABLE, 'torch')
    assert sparse_backend(CPU, torch.float32).reason == 'BEVFUSION_SPARSE_BACKEND=torch'


@pytest.mark.parametrize('name', ['spconv', 'spconv_triton'])
def test_the_variable_cannot_ask_for_a_package_on_a_cpu(installed, monkeypatch, name):
    monkeypatch.setenv(backend.VARIABLE, name)
    with pytest.raises(ValueError, match=f'{name}, and the features are on cpu: .* CUDA only; unset it or set it to torch'):
        sparse_backend(CPU, torch.float32)


@pytest.mark.parametrize('device', [CPU, GPU])
def test_a_backend_that_is_none_is_refused(monkeypatch, device):
    monkeypatch.setenv(backend.VARIABLE, 'minkowski')
    with pytest.raises(ValueError, match="must be one of torch, spconv, spconv_triton, got 'minkowski'"):
        sparse_backend(device, torch.float32)


@pytest.mark.parametrize('error', BROKEN, ids=lambda error: type(error).__name__)
def test_a_backend_that_was_asked_for_and_does_not_work_ends_the_run(installed, monkeypatch, error):
    breaks(monkeypatch, ['spconv_triton'], error)
    monkeypatch.setenv(backend.VARIABLE, 'spconv_triton')
    with pytest.raises(
        RuntimeError,
        match='=spconv_triton for float32 on cuda:0: spconv_triton does not work here .*; mend that or unset BEVFUSION_SPARSE_BACKEND',
    ) as raised:
        sparse_backend(GPU, torch.float32)
    assert type(error).__name__ in str(raised.value) and raised.value.__cause__ is error


@pytest.fixture
def asked(monkeypatch):
    """Precisions that a backend was asked for; it is a package on every device."""
    precisions = []

    def choose(device, dtype):
        precisions.append(dtype)
        return SparseBackend('spconv', pretended_spconv(), '')

    monkeypatch.setattr(backend, 'sparse_backend', choose)
    return precisions


def random_tensor(dtype=torch.float32, n_sites=None):
    sites = (torch.rand(2, 8, 7, 9) < 0.1).nonzero().int()[:n_sites]
    return SparseTensor(torch.randn(len(sites), 4, dtype=dtype), sites, (8, 7, 9), 2)


@pytest.mark.parametrize('precision, package', [(torch.float16, torch.float16), (torch.bfloat16, torch.float32)])
def test_a_package_computes_in_float16_under_its_autocast_and_else_in_float32(asked, precision, package):
    x, conv = random_tensor(), SubMConv3d(4, 6, 3)
    assert conv(x).features.dtype == torch.float32
    with torch.autocast('cpu', dtype=precision):
        y = conv(x)
    assert y.features.dtype == package and asked == [torch.float32, package]
    y.features.float().sum().backward()
    assert conv.weight.grad.dtype == torch.float32


def test_our_own_code_computes_what_the_packages_cannot(asked):
    assert SparseConv3d(4, 6, 3).double()(random_tensor(torch.float64)).features.dtype == torch.float64
    assert SubMConv3d(4, 6, 3)(random_tensor(n_sites=0)).features.shape == (0, 6)
    SubMConv3d(4, 6, 1)(random_tensor())
    assert not asked


def test_product_dtype_is_the_one_of_autocast():
    assert product_dtype(torch.zeros(2, 2)) == torch.float32
    assert product_dtype(torch.zeros(2, 2, dtype=torch.float64)) == torch.float64
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert product_dtype(torch.zeros(2, 2)) == torch.bfloat16
        assert product_dtype(torch.zeros(2, 2, dtype=torch.float64)) == torch.float64
