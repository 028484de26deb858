"""What is done to the gradients of a whole window: measure, clip, agree on over the ranks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.dist import all_reduce
from torch import Tensor, nn

from bevfusion_plugin.plan.checked_settings import one_of, positive, settings_dict, switch

CLIP_SETTINGS = dict(norm=('max_norm', 'norm_type', 'error_if_nonfinite', 'foreach'), value=('clip_value', 'foreach'))


def total_norm(gradients: Sequence[Tensor]) -> Tensor:
    """Euclidean norm of all elements of ``gradients`` together, shape (), on the device of the first; 0 if there are none."""
    if not gradients:
        return torch.zeros(())
    norms = torch._foreach_norm(list(gradients))
    return torch.linalg.vector_norm(torch.stack([norm.to(norms[0].device) for norm in norms]))


def not_finite(model: nn.Module | None) -> list[str]:
    """Names of the parameters whose gradient holds a NaN or an infinite number."""
    parameters = [] if model is None else model.named_parameters()
    return [name for name, parameter in parameters if parameter.grad is not None and not torch.isfinite(parameter.grad).all()]


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


def checked_clip_grad(clip_grad: dict[str, Any] | None) -> dict[str, Any] | None:
    """``clip_grad`` itself, None or the arguments of torch's clipping.

    Args:
        clip_grad: ``max_norm`` (infinite: measure only) and perhaps ``norm_type``, or with ``type='value'`` ``clip_value``.

    Raises:
        ValueError: If it is anything else, or would turn the gradient round.
    """
    if clip_grad is None:
        return None
    kind = one_of('clip_grad.type', settings_dict('clip_grad', clip_grad).get('type', 'norm'), tuple(CLIP_SETTINGS))
    known = CLIP_SETTINGS[kind]
    unknown = [name for name in clip_grad if name not in ('type', *known)]
    if unknown or known[0] not in clip_grad:
        raise ValueError(
            f'clip_grad must have {known[0]} and may have {", ".join(known[1:])}, got {clip_grad!r}; set optim_wrapper.clip_grad'
        )
    for name in {'max_norm', 'clip_value', 'norm_type'} & set(clip_grad):
        if name == 'clip_value' or clip_grad[name] != math.inf:
            positive(f'clip_grad.{name}', clip_grad[name], mend=f'set optim_wrapper.clip_grad.{name}, or leave clip_grad out')
    for name in {'error_if_nonfinite', 'foreach'} & set(clip_grad):
        if clip_grad[name] is not None:
            switch(f'clip_grad.{name}', clip_grad[name])
    return clip_grad
