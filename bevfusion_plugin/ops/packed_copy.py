"""Copies between host and device, as few as can be: each one that comes to the host makes it wait for the device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def copy_together(tensors: Sequence[Tensor], device: torch.device | str) -> list[Tensor]:
    """The tensors on ``device``, brought there by one copy.

    They travel in the dtype that all of them promote to: integers beside float32 must lie below 2**24. The host does not wait for a
    copy to the device; for one from the device it waits.

    Args:
        tensors: Of any shapes, all on one device.
        device: Where they go; there already, they come back as they are.
    """
    device = torch.device(device)
    if all(tensor.device == device for tensor in tensors):
        return list(tensors)
    packed = torch.cat([tensor.flatten() for tensor in tensors]).to(device, non_blocking=device.type != 'cpu')
    parts = packed.split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape).to(tensor.dtype) for part, tensor in zip(parts, tensors)]


def constant(values: Sequence[float], like: Tensor) -> Tensor:
    """``values`` in the dtype and on the device of ``like``, as of its ``new_tensor``, which makes the host wait for the device."""
    return torch.tensor(values, dtype=like.dtype).to(like.device, non_blocking=True)
