"""Tensors that say ``cuda:0`` and compute on the CPU, for what a GPU would do and a CPU does not show.

An operator that mixes them with tensors of the CPU raises; every kernel that a GPU would launch, every time the host would wait for
it and every copy to it are counted by the place they come from. What torch's C++ code sees is a tensor of the CPU: autocast casts
by the CPU's rules, and there are neither CUDA's kernels nor its rounding. Counts are the same on every machine.
"""

from __future__ import annotations

import sys
from collections import Counter
from contextlib import contextmanager
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device('cuda', 0)
# What launches nothing: views, memory without values, questions about types.
FREE = {
    'alias',
    'as_strided',
    'detach',
    'diagonal',
    'empty',
    'empty_like',
    'empty_strided',
    'expand',
    'lift_fresh',
    'new_empty',
    'new_empty_strided',
    'permute',
    'promote_types',
    'result_type',
    'select',
    'slice',
    'split',
    'split_with_sizes',
    'squeeze',
    't',
    'transpose',
    'unbind',
    'unfold',
    'unsqueeze',
    'view',
    'view_as_complex',
    'view_as_real',
    '_reshape_alias',
    '_unsafe_view',
}
# What makes the host wait: the size or the value of the result decides what comes next.
WAITS = {
    'bincount',
    'equal',
    'is_nonzero',
    'masked_select',
    'nonzero',
    'repeat_interleave',
    'unique_consecutive',
    'unique_dim',
    '_linalg_check_errors',
    '_local_scalar_dense',
    '_unique2',
}
INDEXING = {'index', 'index_put', 'index_put_', '_index_put_impl_', '_unsafe_index', '_unsafe_index_put'}
PACKAGES = ('/bevfusion_plugin/', '/mmdet/', '/mmdet3d/', '/mmcv/')


class CudaTensor(Tensor):
    """A tensor ``plain`` of the CPU behind the name ``cuda:0``."""

    @staticmethod
    def __new__(cls, plain: Tensor) -> CudaTensor:
        tensor = Tensor._make_wrapper_subclass(
            cls,
            plain.shape,
            strides=plain.stride(),
            storage_offset=plain.storage_offset(),
            dtype=plain.dtype,
            layout=plain.layout,
            device='cpu',
        )
        tensor.plain = plain
        return tensor

    __torch_function__ = torch._C._disabled_torch_function_impl
    device = property(lambda self: DEVICE)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)

    def __repr__(self) -> str:
        return f'CudaTensor({tuple(self.shape)}, {self.dtype})'

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return PretendedCuda.current.run(func, args, kwargs or {})

    def to(self, *args, **kwargs):
        """As ``Tensor.to``; the way to the CPU is a wait."""
        if args and isinstance(args[0], Tensor):
            args = (args[0].device, args[0].dtype, *args[1:])
        device, dtype, non_blocking, _ = torch._C._nn._parse_to(*args, **kwargs)
        tensor = self if dtype is None else Tensor.to(self, dtype)
        return tensor.cpu() if device is not None and device.type == 'cpu' else tensor

    def cpu(self, *args) -> Tensor:
        """As ``Tensor.cpu``."""
        PretendedCuda.current.count('waits', 'cpu')
        return self.plain.detach().clone()

    def tolist(self) -> list:
        """As ``Tensor.tolist``."""
        return self.cpu().tolist()

    def numpy(self) -> None:
        """What a tensor on a GPU does."""
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")

    def new_tensor(self, data, dtype=None, device=None, requires_grad=False) -> Tensor:
        """As ``Tensor.new_tensor``."""
        return torch.tensor(data, dtype=dtype or self.dtype, device=device or DEVICE)


class PretendedCuda(TorchDispatchMode):
    """Counts what happens inside ``with PretendedCuda().pretend():``, in ``launches``, ``waits`` and ``copies`` by place.

    A copy is counted there if it goes to the device and makes the host wait for it.
    """

    current: PretendedCuda

    def __init__(self) -> None:
        super().__init__()
        self.launches, self.waits, self.copies = Counter(), Counter(), Counter()

    @contextmanager
    def pretend(self):
        """With this mode on, ``device='cuda'`` and ``torch.autocast('cuda', ...)`` mean the pretended device."""
        PretendedCuda.current = self
        autocast, tensor, as_tensor = torch.autocast, torch.tensor, torch.as_tensor

        def factory(make):
            def made(data, *args, device=None, **kwargs):
                if isinstance(data, CudaTensor) or device is None or torch.device(device).type != 'cuda':
                    return make(data, *args, **kwargs) if isinstance(data, CudaTensor) else make(data, *args, device=device, **kwargs)
                return make(data, *args, **kwargs).to(DEVICE)

            return made

        with (
            mock.patch.multiple(
                torch,
                autocast=lambda device_type, *args, **kwargs: autocast('cpu', *args, **kwargs),
                tensor=factory(tensor),
                as_tensor=factory(as_tensor),
            ),
            mock.patch.multiple(torch.cuda, is_available=lambda: True, device_count=lambda: 1, _lazy_init=lambda: None),
            self,
        ):
            yield self

    def count(self, kind: str, what: str) -> None:
        """One more of ``kind``."""
        getattr(self, kind)[place(), what] += 1

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return self.run(func, args, kwargs or {})

    def run(self, func, args, kwargs):
        """The result of ``func``, on the pretended device if its tensors or its ``device`` are there."""
        name = func._schema.name.removeprefix('aten::')
        tensors = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, Tensor)]
        on_device = any(isinstance(value, CudaTensor) for value in tensors)
        device = kwargs.get('device')
        to_device = device is not None and torch.device(device).type == 'cuda'
        if not on_device and not to_device:
            return func(*args, **kwargs)
        if on_device:
            self._check_devices(name, args, tensors)
        elif name == '_to_copy' and not kwargs.get('non_blocking'):
            self.count('copies', name)
        plain_args, plain_kwargs = tree_map(lambda value: value.plain if isinstance(value, CudaTensor) else value, (args, kwargs))
        if to_device:
            plain_kwargs['device'] = torch.device('cpu')
        plain_kwargs.pop('pin_memory', None)
        result = func(*plain_args, **plain_kwargs)
        self._count_operator(name, args)
        return result if name == '_local_scalar_dense' else self._on_device(func, args, kwargs, result)

    def _check_devices(self, name: str, args, tensors) -> None:
        strangers = [value for value in tensors if not isinstance(value, CudaTensor) and value.dim()]
        if strangers and name in INDEXING and isinstance(args[0], CudaTensor):
            self.count('copies', name)  # torch takes the indices to the device by itself
        elif strangers and name != 'copy_':
            raise RuntimeError(f'{name} at {place()} mixes cuda:0 with the CPU: {[tuple(value.shape) for value in strangers]}')
        elif strangers:
            self.count('copies', name)

    def _count_operator(self, name: str, args) -> None:
        if name not in FREE:
            self.count('launches', name)
        masks = name in INDEXING and any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
        if name in WAITS or masks:
            self.count('waits', name)

    @staticmethod
    def _on_device(func, args, kwargs, result):
        """``result`` wrapped; what ``func`` changed in place is the tensor that was given."""
        schema = func._schema.arguments
        changed = [
            kwargs.get(argument.name, args[index] if index < len(args) else None)
            for index, argument in enumerate(schema)
            if argument.alias_info is not None and argument.alias_info.is_write
        ]
        returned = len(func._schema.returns)
        if changed and returned == len(changed):
            return changed[0] if returned == 1 else tuple(changed)
        return tree_map(lambda value: CudaTensor(value) if isinstance(value, Tensor) else value, result)


def place() -> str:
    """Folder, file and line of the code that called torch."""
    frame = sys._getframe(1)
    while frame is not None:
        path = frame.f_code.co_filename
        if any(package in path for package in PACKAGES):
            return f'{"/".join(path.split("/")[-2:])}:{frame.f_lineno}'
        frame = frame.f_back
    return 'outside the package'


def to_cuda(values):
    """Tensors, also those inside lists and dicts, and the parameters and buffers of modules, on the pretended device."""
    if not isinstance(values, nn.Module):
        return tree_map(lambda value: CudaTensor(value) if isinstance(value, Tensor) else value, values)
    for module in values.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(CudaTensor(parameter.detach()), parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = CudaTensor(buffer)
    return values
