"""spconv-triton's kernels on the CPU, in Triton's interpreter, compared with our torch code; run as a process of its own,
as Triton reads TRITON_INTERPRET while it is imported.

Small tensors only: a kernel's programs run one after the other in numpy.
"""

from __future__ import annotations

import json
import traceback
from types import ModuleType

import torch

from bevfusion_plugin.ops import SparseConv3d, SparseSequential, SparseTensor, SubMConv3d
from bevfusion_plugin.ops.sparse import backend, trial
from bevfusion_plugin.ops.sparse.trial import check_against_torch

CPU = torch.device('cpu')


def spconv_triton_on_cpu() -> ModuleType:
    """``spconv_triton.pytorch``, made to take CPU tensors, which it refuses by an assertion in two places."""
    torch.Tensor.is_cuda = property(lambda tensor: True)
    from spconv_triton import pytorch
    from spconv_triton.pytorch._impl import gemm, pair_kernels

    gemm._multiprocessor_count = lambda device: 1  # a GPU is asked for it
    for kernel in (*vars(gemm).values(), *vars(pair_kernels).values()):
        if hasattr(kernel, 'configs'):  # nothing to tune: the largest tiles, which are the fewest programs
            kernel.configs = [max(kernel.configs, key=lambda config: list(config.kwargs.values()))]
    return pytorch


def trial_float32(spconv: ModuleType) -> None:
    check_against_torch(spconv, CPU, torch.float32)


def trial_float16(spconv: ModuleType) -> None:
    check_against_torch(spconv, CPU, torch.float16)


def trial_refuses_another_layout(spconv: ModuleType) -> None:
    wrong = ModuleType('wrong')
    wrong.SparseConvTensor = spconv.SparseConvTensor
    for name in ('SubMConv3d', 'SparseConv3d'):
        forward = getattr(spconv, name)._conv_forward
        turned = lambda self, training, x, weight, *args, forward=forward, **kwargs: forward(  # noqa: E731
            self, training, x, weight.transpose(0, 4), *args, **kwargs
        )
        setattr(wrong, name, type(name, (getattr(spconv, name),), dict(_conv_forward=turned)))
    try:
        check_against_torch(wrong, CPU, torch.float32)
    except ArithmeticError:
        return
    raise AssertionError('the trial took a wrong layout')


def encoder_float32(spconv: ModuleType) -> None:
    _compare_encoders(spconv, 1e-5)


def encoder_autocast_float16(spconv: ModuleType) -> None:
    with torch.autocast('cpu', dtype=torch.float16):
        _compare_encoders(spconv, 0.01)


def encoder_after_a_pass_without_gradients(spconv: ModuleType) -> None:
    x, encoder = _sparse_tensor(), _encoder().eval()
    with torch.no_grad():
        _in_backend(spconv, encoder, x)
    _in_backend(spconv, encoder, x).dense().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in encoder.parameters())


def empty_input(spconv: ModuleType) -> None:
    x = SparseTensor(torch.zeros(0, 5), torch.zeros(0, 4, dtype=torch.int32), (8, 7, 9), 2)
    assert _in_backend(spconv, _encoder(), x).features.shape == (0, 7)


CHECKS = (
    trial_float32,
    trial_float16,
    trial_refuses_another_layout,
    encoder_float32,
    encoder_autocast_float16,
    encoder_after_a_pass_without_gradients,
    empty_input,
)


def _sparse_tensor() -> SparseTensor:
    sites = (torch.rand(2, 8, 7, 9, generator=torch.Generator().manual_seed(0)) < 0.15).nonzero().int()
    return SparseTensor(torch.randn(len(sites), 5, requires_grad=True), sites, (8, 7, 9), 2)


def _encoder() -> SparseSequential:
    """The kinds of convolution in BEVFusion's encoder, two on one set of sites, and one that no package computes."""
    return SparseSequential(
        SubMConv3d(5, 6, 3),
        SubMConv3d(6, 6, 3, bias=False),
        SparseConv3d(6, 8, 3, 2, (1, 1, 0)),
        SubMConv3d(8, 8, (1, 1, 1)),
        SparseConv3d(8, 7, (1, 1, 3), (1, 1, 2)),
    )


def _in_backend(module: ModuleType | None, encoder: SparseSequential, x: SparseTensor) -> SparseTensor:
    backend.sparse_backend = lambda device, dtype: backend.SparseBackend('chosen', module, 'by a test')
    return encoder(x)


def _compare_encoders(spconv: ModuleType, tolerance: float) -> None:
    x, encoder = _sparse_tensor(), _encoder()
    leaves = x.features, *encoder.parameters()
    y, expected = _in_backend(spconv, encoder, x).dense(), _in_backend(None, encoder, x).dense()
    cotangent = torch.randn_like(y)
    pairs = zip((y, *torch.autograd.grad(y, leaves, cotangent)), (expected, *torch.autograd.grad(expected, leaves, cotangent)))
    for result, reference in pairs:
        assert result.shape == reference.shape and result.dtype == reference.dtype
        error, largest = (result - reference).abs().max(), reference.abs().max()
        assert error <= tolerance * largest, f'off by {error:.3g}, largest value {largest:.3g}'


def main() -> None:
    """Print one line of JSON: what each check raised, '' where nothing."""
    trial.SHAPE = (8, 8, 8)
    spconv, raised = spconv_triton_on_cpu(), {}
    for check in CHECKS:
        torch.manual_seed(0)
        try:
            check(spconv)
            raised[check.__name__] = ''
        except Exception:
            raised[check.__name__] = traceback.format_exc()
    print(json.dumps(raised))


if __name__ == '__main__':
    main()
