"""What a training keeps in memory, counted on a model without a GPU: parameters, optimizer state, tensors saved for the backward pass.

Values do not matter for that, so convolutions and matrix products need not be computed: :class:`WithoutProducts` gives zeros of the
right shape. Storages are counted once, by the hooks of ``torch.autograd.graph.saved_tensors_hooks``. Layer norm, softmax and dropout
are made to save what they save on CUDA (:func:`cuda_autocast`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from mmengine.registry import OPTIMIZERS
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from bevfusion_plugin.plan.memory_model import SavedBytes

FLOAT32_UNDER_AUTOCAST = ('layer_norm.default', 'group_norm.default', 'softmax.int', 'log_softmax.int')
SWITCHES = ('with_cp', 'is_run_again')  # attributes that switch activation checkpointing of a module on
aten = torch.ops.aten
PRODUCTS = (
    aten.convolution.default,
    aten.mm.default,
    aten.addmm.default,
    aten.bmm.default,
    aten.baddbmm.default,
    aten.convolution_backward.default,
)


def parameter_bytes(model: nn.Module) -> int:
    """Bytes of parameters and buffers, each storage once."""
    return sum(storage.nbytes() for storage in _state_storages(model).values())


def gradient_bytes(model: nn.Module) -> int:
    """Bytes of the gradients of all trainable parameters."""
    return sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)


def optimizer_state_bytes(model: nn.Module, optimizer: Mapping[str, Any]) -> int:
    """Bytes of the state an optimizer holds after its first update, found by one update on the ``meta`` device.

    Args:
        model: The model; every trainable parameter is taken to be optimised.
        optimizer: Its config, as in ``optim_wrapper.optimizer``.
    """
    parameters = [nn.Parameter(torch.empty_like(p, device='meta')) for p in model.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.grad = torch.empty_like(parameter)
    # How it is computed changes no size, and fused kernels do not exist on the meta device.
    settings = {key: value for key, value in optimizer.items() if key not in ('fused', 'foreach')}
    built = OPTIMIZERS.build(dict(settings, params=parameters))
    built.step()
    return sum(
        value.numel() * value.element_size() for state in built.state.values() for value in state.values() if isinstance(value, Tensor)
    )


def _state_storages(model: nn.Module) -> dict[int, torch.UntypedStorage]:
    storages = [tensor.untyped_storage() for tensor in (*model.parameters(), *model.buffers())]
    return {storage._cdata: storage for storage in storages}


class SavedTensorCounter:
    """Counts what is saved for the backward pass within ``with counter:``, by the part of the model that is running.

    Args:
        model: The model; its parameters and buffers are not counted.
        parts: Names of submodules, such as ``'view_transform.downsample'``; what runs inside several counts for the innermost.
    """

    def __init__(self, model: nn.Module, parts: Iterable[str]) -> None:
        self._modules = {name: model.get_submodule(name) for name in parts}
        self._known = _state_storages(model)
        self._saved: dict[int, tuple[torch.UntypedStorage, str | None]] = {}  # kept alive, so that no identity comes twice
        self._running = ['']

    def __enter__(self) -> SavedTensorCounter:
        self._handles = []
        for name, module in self._modules.items():
            self._handles.append(module.register_forward_pre_hook(lambda *_, name=name: self._running.append(name)))
            self._handles.append(module.register_forward_hook(self._leave, always_call=True))
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._note, lambda tensor: tensor)
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._hooks.__exit__(*error)
        for handle in self._handles:
            handle.remove()

    def _leave(self, *_: Any) -> None:
        self._running.pop()

    def _note(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._known and storage._cdata not in self._saved:
            self._saved[storage._cdata] = storage, None if _is_cast_parameter(tensor) else self._running[-1]
        return tensor

    def result(self) -> SavedBytes:
        """What was saved so far."""
        fixed = 0
        parts: dict[str, int] = {}
        largest: dict[str, int] = {}
        for storage, part in self._saved.values():
            if part is None:
                fixed += storage.nbytes()
            else:
                parts[part] = parts.get(part, 0) + storage.nbytes()
                largest[part] = max(largest.get(part, 0), storage.nbytes())
        return SavedBytes(fixed, parts, largest)


def _is_cast_parameter(tensor: Tensor) -> bool:
    """Whether ``tensor`` was made from one parameter alone and its storage holds no more elements than that."""
    node: Any = tensor.grad_fn  # torch's hints do not know of its variable
    while node is not None and len(node.next_functions) == 1:
        node = node.next_functions[0][0]
    elements = tensor.untyped_storage().nbytes() // tensor.element_size()
    return type(node).__name__ == 'AccumulateGrad' and elements <= node.variable.numel()


class WithoutProducts(TorchDispatchMode):
    """Within ``with WithoutProducts():`` convolutions and matrix products give zeros of the right shape, at next to no cost."""

    def __torch_dispatch__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Zeros for a product of dense tensors; any other operation as it is."""
        kwargs = kwargs or {}
        if func not in PRODUCTS or any(isinstance(arg, Tensor) and arg.layout is not torch.strided for arg in args):
            return func(*args, **kwargs)
        result = func(*tree_map_only(Tensor, _on_meta, args), **tree_map_only(Tensor, _on_meta, kwargs))
        return tree_map_only(Tensor, lambda each: torch.zeros_like(each, device=args[0].device), result)


def _on_meta(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device='meta')


@contextmanager
def cuda_autocast(dtype: torch.dtype) -> Iterator[None]:
    """On a CPU, save what CUDA's autocast saves: half precision as bfloat16, norms and softmax in float32, dropout masks as bool.

    Args:
        dtype: What the GPU casts to; float32 casts nothing. float16 and bfloat16 have the same size.

    Source:
        "CUDA Ops that can autocast to float32" in torch.amp's documentation; of that list only what detectors apply to large
        tensors is in FLOAT32_UNDER_AUTOCAST. A CPU computes these in bfloat16.
    """
    library = torch.library.Library('aten', 'IMPL')  # what it registers goes with it
    for name in FLOAT32_UNDER_AUTOCAST:
        library.impl(name.removesuffix('.default'), _in_float32(name), 'AutocastCPU')
    library.impl('dropout', _dropout, 'AutogradCPU')
    casting = nullcontext() if dtype is torch.float32 else torch.autocast('cpu', torch.bfloat16)
    try:
        with casting:
            yield
    finally:
        del library


def _in_float32(name: str) -> Callable:
    operation = getattr(getattr(aten, name.split('.')[0]), name.split('.')[1])

    def run(*args: Any, **kwargs: Any) -> Tensor:
        with torch.autocast('cpu', enabled=False):
            return operation(*tree_map_only(Tensor, Tensor.float, args), **kwargs)

    return run


def _dropout(x: Tensor, p: float, train: bool) -> Tensor:
    return torch.native_dropout(x, p, train)[0] if train and p else x


def checkpointed_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Innermost modules with activation checkpointing on, by name: their own (``with_cp``, the word of mmcv, mmdet and mmdet3d) or
    the detector's (``is_run_again``)."""
    named = {name: module for name, module in model.named_modules() if any(getattr(module, switch, False) for switch in SWITCHES)}
    return {name: module for name, module in named.items() if not any(other.startswith(f'{name}.') for other in named)}


def checkpointed_bytes(model: nn.Module, parts: Iterable[str], forward: Callable[[], Any]) -> dict[str, SavedBytes]:
    """What each checkpointed module saves when it runs without checkpointing, by the part of the model, for each by its name.

    The backward pass runs one checkpointed module at a time again, and then all that it saves exists.

    Args:
        model: The model.
        parts: Names of the submodules to tell apart, as for :class:`SavedTensorCounter`.
        forward: Runs its forward pass.
    """
    modules = checkpointed_modules(model)
    if not modules:
        return {}
    switched = [(module, switch) for module in modules.values() for switch in SWITCHES if getattr(module, switch, False)]
    for module, switch in switched:
        setattr(module, switch, False)
    try:
        with SavedTensorCounter(model, {*modules, *parts}) as counter:
            forward()
    finally:
        for module, switch in switched:
            setattr(module, switch, True)
    counted = counter.result().parts
    found: dict[str, SavedBytes] = {}
    for name in modules:
        by_part: dict[str, int] = {}
        for place, size in counted.items():
            if f'{place}.'.startswith(f'{name}.'):
                part = innermost(parts, place)
                by_part[part] = by_part.get(part, 0) + size
        if by_part:
            found[name] = SavedBytes(0, by_part, by_part)
    return found


def innermost(parts: Iterable[str], name: str) -> str:
    """The part that a module lies in: the longest of these names that its own begins with; '' if none."""
    return max((part for part in parts if f'{name}.'.startswith(f'{part}.')), key=len, default='')
