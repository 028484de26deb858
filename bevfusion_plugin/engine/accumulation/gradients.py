"""What is done to the gradients of a whole window: measure, agree on over the ranks."""
from __future__ import annotations

from collections.abc import Sequence

import torch
from mmengine.dist import all_reduce
from torch import Tensor, nn


def total_norm(gradients: Sequence[Tensor]) -> Tensor:
    """Euclidean norm of all elements of ``gradients`` together, shape (), on the device of the first; 0 if there are none."""
    if not gradients:
        return torch.zeros(())
    norms = torch._foreach_norm(list(gradients))
    return torch.linalg.vector_norm(torch.stack([norm.to(norms[0].device) for norm in norms]))


def not_finite(model: nn.Module | None) -> list[str]:
    """Names of the parameters whose gradient holds a NaN or an infinite number."""
    parameters = [] if model is None else model.named_parameters()
    return [name for name, parameter in parameters
            if parameter.grad is not None and not torch.isfinite(parameter.grad).all()]


def over_ranks(value: float, how: str, device: torch.device) -> float:
    """``value`` put together over the ranks: their ``'mean'``, ``'max'``, ... Reading it waits for the device.

    Args:
        value: This rank's.
        how: What MMEngine's ``all_reduce`` takes.
        device: Where the ranks exchange it.
    """
    tensor = torch.tensor(float(value), dtype=torch.float64, device=device)
    all_reduce(tensor, how)
    return tensor.item()
