"""What computes a sparse convolution: spconv 2, spconv-triton or our own torch code.

On CUDA the first of them that works on this card is taken, elsewhere our own code: spconv's CPU kernels race with
more than one thread and have no backward, and spconv-triton has none. The parameters are always those of our modules.
"""

from __future__ import annotations

import functools
import importlib
import logging
import os
from types import ModuleType
from typing import NamedTuple

import torch
from mmengine.logging import print_log
from torch import Tensor

from bevfusion_plugin.ops.sparse.spconv_convolution import spconv_convolution
from bevfusion_plugin.ops.sparse.tensor import SparseTensor
from bevfusion_plugin.ops.sparse.torch_convolution import torch_convolution
from bevfusion_plugin.ops.sparse.trial import check_against_torch

VARIABLE = 'BEVFUSION_SPARSE_BACKEND'
# Package with spconv's interface, the first choice first -> what brings it.
PACKAGES = dict(spconv='install the wheel for your CUDA, such as spconv-cu120', spconv_triton='pip install spconv-triton')
CUDA_ONLY = 'spconv and spconv_triton train on CUDA only'


class SparseBackend(NamedTuple):
    """The choice for one device and precision.

    Attributes:
        name: 'spconv', 'spconv_triton' or 'torch'.
        module: The module with spconv's interface; None for our torch code.
        reason: Why this one, and why none before it.
    """

    name: str
    module: ModuleType | None
    reason: str


def convolution(x: SparseTensor, weight: Tensor, stride: tuple[int, ...], padding: tuple[int, ...], subm: bool) -> SparseTensor:
    """What ``torch_convolution`` gives, from the backend of this device, under autocast in its precision.

    The packages have no float64 and are not used in bfloat16, where they compute in float32.
    """
    dtype = product_dtype(x.features)
    if dtype != torch.float64 and len(x.features) > 0 and weight.shape[1:4].numel() > 1:
        package_dtype = dtype if dtype == torch.float16 else torch.float32
        module = sparse_backend(x.features.device, package_dtype).module
        if module is not None:
            x = x.replace_feature(x.features.to(package_dtype))
            return spconv_convolution(module, x, weight.to(package_dtype), stride, padding, subm)
    return torch_convolution(x.replace_feature(x.features.to(dtype)), weight.to(dtype), stride, padding, subm)


def product_dtype(features: Tensor) -> torch.dtype:
    """Dtype of a matrix product of these features: under autocast the low one."""
    device = features.device.type
    if not hasattr(torch, 'get_autocast_dtype'):  # before torch 2.4 the question differs from device to device: multiply
        one = features.new_ones(1, 1)
        return (one @ one).dtype
    if features.dtype == torch.float64 or not torch.is_autocast_enabled(device):
        return features.dtype
    return torch.get_autocast_dtype(device)


@functools.cache
def sparse_backend(device: torch.device, dtype: torch.dtype) -> SparseBackend:
    """The backend that sparse convolutions take, chosen and logged once for each device and precision.

    ``BEVFUSION_SPARSE_BACKEND`` in the environment names one instead of the first that works.

    Args:
        device: Of the features.
        dtype: float32 or float16, the precisions the packages compute in.

    Raises:
        ValueError: If the variable names no backend, or one that is not for this device.
        RuntimeError: If it names one that does not work here.
    """
    wanted = os.environ.get(VARIABLE)
    backend = _named_backend(wanted, device, dtype) if wanted else _first_working_backend(device, dtype)
    _log(f'sparse convolutions in {_name(dtype)} on {device} run in {backend.name}: {backend.reason}')
    return backend


def _first_working_backend(device: torch.device, dtype: torch.dtype) -> SparseBackend:
    if device.type != 'cuda':
        return SparseBackend('torch', None, CUDA_ONLY)
    failures = []
    for name in PACKAGES:
        try:
            module, version = _tried_package(name, device, dtype)
        except Exception as error:  # of whatever kind: the next backend works without this package
            failures.append(_failure(name, error))
        else:
            return SparseBackend(name, module, '; '.join([f'version {version} passed a trial', *failures]))
    return SparseBackend('torch', None, '; '.join(failures))


def _named_backend(name: str, device: torch.device, dtype: torch.dtype) -> SparseBackend:
    if name == 'torch':
        return SparseBackend(name, None, f'{VARIABLE}={name}')
    if name not in PACKAGES:
        raise ValueError(f'{VARIABLE} must be one of torch, {", ".join(PACKAGES)}, got {name!r}')
    if device.type != 'cuda':
        raise ValueError(f'{VARIABLE}={name}, and the features are on {device}: {CUDA_ONLY}; unset it or set it to torch')
    try:
        module, version = _tried_package(name, device, dtype)
    except Exception as error:
        raise RuntimeError(
            f'{VARIABLE}={name} for {_name(dtype)} on {device}: {_failure(name, error)}; mend that or unset {VARIABLE}'
        ) from error
    return SparseBackend(name, module, f'{VARIABLE}={name}, and version {version} passed a trial')


def _tried_package(name: str, device: torch.device, dtype: torch.dtype) -> tuple[ModuleType, str]:
    """A package's module with spconv's interface and its version, after it has passed a trial on this device.

    What no trial in the same process survives: an illegal memory access, after which every CUDA call of the process
    fails, and a library that ends the process. Then name another backend by ``BEVFUSION_SPARSE_BACKEND``.
    """
    module, version = importlib.import_module(f'{name}.pytorch'), importlib.import_module(name).__version__
    _log(f'trying {name} {version} in {_name(dtype)} on {device}; compiling its kernels may take minutes the first time')
    check_against_torch(module, device, dtype)
    return module, version


def _log(message: str) -> None:
    print_log(message, logger='current', level=logging.INFO)


def _failure(name: str, error: Exception) -> str:
    """What is wrong with a package, in one line."""
    if isinstance(error, ModuleNotFoundError) and (error.name or '').partition('.')[0] == name:
        return f'{name} is not installed ({PACKAGES[name]})'
    return f'{name} does not work here ({type(error).__name__}: {error}'.partition('\n')[0] + ')'


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix('torch.')
