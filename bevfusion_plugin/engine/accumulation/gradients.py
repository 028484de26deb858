"""What is done to the gradients of a whole window: measure, average, agree on over the ranks."""
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


def average_over_ranks(parameters: Sequence[nn.Parameter]) -> None:
    """Replace every gradient by its mean over the ranks.

    A parameter that has a gradient on some ranks only counts as 0 on the others; one that has none anywhere keeps none.

    Args:
        parameters: The same parameters in the same order on every rank.
    """
    if not parameters:
        return
    present = torch.tensor([parameter.grad is not None for parameter in parameters], dtype=torch.uint8,
                           device=parameters[0].device)
    all_reduce(present, 'max')
    for parameter, somewhere in zip(parameters, present.tolist()):
        if somewhere:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            all_reduce(parameter.grad, 'mean')


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
