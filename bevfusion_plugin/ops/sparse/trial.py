"""Whether a package with spconv's interface computes on this card what our torch code computes on the CPU."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor

from bevfusion_plugin.ops.sparse.spconv_convolution import spconv_convolution
from bevfusion_plugin.ops.sparse.tensor import SparseTensor
from bevfusion_plugin.ops.sparse.torch_convolution import torch_convolution

# Both packages look for the fastest variant of a kernel once for each kernel size and numbers of channels, whatever the
# number of sites, and spconv-triton compiles some 40 for it and keeps the answer on disk. So the trial is a layer that
# BEVFusion has, on as many sites as a sample of nuScenes: the search serves the run, and finds what is fast in it.
CHANNELS = 16
SHAPE = (48, 48, 48)  # 2 samples x 48^3 x 0.2 = 44,000 sites
KERNEL = 3
# As a share of the largest value. spconv may take TF32 (11 bits) and sum in float16; one kernel offset of 27 left
# out costs about 1 / sqrt(27 * 0.2) = 40 %.
TOLERANCE = {torch.float32: 0.01, torch.float16: 0.05}


def check_against_torch(spconv: ModuleType, device: torch.device, dtype: torch.dtype) -> None:
    """Run a submanifold and a strided convolution with their gradients, and compare them with our own code.

    Takes no number from the global generators and leaves the modes of autograd as they are.

    Args:
        spconv: ``spconv.pytorch`` or ``spconv_triton.pytorch``.
        device: Where to try it.
        dtype: float32 or float16.

    Raises:
        ArithmeticError: If a result is not finite or not that of our own code.
        Exception: Whatever the package raises, such as a missing kernel image (RuntimeError) or library (OSError).
    """
    convolution = functools.partial(spconv_convolution, spconv)
    with torch.inference_mode(False), torch.enable_grad():
        for subm, stride in ((True, 1), (False, 2)):
            expected = _results(torch_convolution, torch.device('cpu'), torch.float32, stride, subm)
            found = _results(convolution, device, dtype, stride, subm)
            for name, result in found.items():
                where = f'{name} of a {"submanifold" if subm else "strided"} convolution'
                _check_close(where, result, expected[name], TOLERANCE[dtype])


def _results(
    convolution: Callable[..., SparseTensor], device: torch.device, dtype: torch.dtype, stride: int, subm: bool
) -> dict[str, Tensor]:
    """The dense output and the gradients of features and weight, on the CPU in float32."""
    generator = torch.Generator().manual_seed(0)
    sites = (torch.rand(2, *SHAPE, generator=generator) < 0.2).nonzero().int()
    features = torch.randn(len(sites), CHANNELS, generator=generator)
    weight = torch.randn(CHANNELS, KERNEL, KERNEL, KERNEL, CHANNELS, generator=generator) / (KERNEL**3 * CHANNELS) ** 0.5
    features, weight = (leaf.to(device, dtype).requires_grad_() for leaf in (features, weight))
    x = SparseTensor(features, sites.to(device), SHAPE, 2)
    y = convolution(x, weight, (stride,) * 3, (KERNEL // 2,) * 3, subm).dense()
    cotangent = torch.randn(y.shape, generator=generator).to(y)
    gradients = torch.autograd.grad(y, (features, weight), cotangent)
    names = 'features', 'the gradient of the features', 'the gradient of the weight'
    return {name: result.detach().float().cpu() for name, result in zip(names, (y, *gradients))}


def _check_close(name: str, result: Tensor, expected: Tensor, tolerance: float) -> None:
    if result.shape != expected.shape:
        raise ArithmeticError(f'{name}: expected {tuple(expected.shape)}, got {tuple(result.shape)}')
    error, largest = (result - expected).abs().max().item(), expected.abs().max().item()
    if not error <= tolerance * largest:  # NaN is not, either
        raise ArithmeticError(f'{name}: off by {error:.3g} from our torch code, whose largest value is {largest:.3g}')
