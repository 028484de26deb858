"""The number format of the forward pass, and the gradient scaler that float16 needs."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from bevfusion_plugin.plan.checked_settings import finite_number, is_finite_number, positive, positive_int

DTYPES = {'float16': torch.float16, 'bfloat16': torch.bfloat16, 'float32': torch.float32}
SMALLEST_SCALE = 1.0  # DeepSpeed's: a gradient that overflows unscaled does not do so because of the scale
SCALER_SETTINGS = ('init_scale', 'growth_factor', 'backoff_factor', 'growth_interval')


def autocast_dtype(dtype: str | torch.dtype | None, device_type: str) -> torch.dtype:
    """The dtype autocast casts to; float32 stands for no casting at all.

    Args:
        dtype: ``'float16'``, ``'bfloat16'``, ``'float32'``, the torch dtype itself, or None: what autocast takes by itself on
            that device (float16 on CUDA, bfloat16 on a CPU).
        device_type: ``'cuda'``, ``'cpu'``, ...

    Raises:
        ValueError: If it is another dtype, or bfloat16 on a GPU that cannot compute in it.
    """
    if dtype is None:
        if hasattr(torch, 'get_autocast_dtype'):  # torch >= 2.4
            return torch.get_autocast_dtype(device_type)
        return torch.get_autocast_cpu_dtype() if device_type == 'cpu' else torch.get_autocast_gpu_dtype()
    found = DTYPES.get(dtype, dtype) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or found not in DTYPES.values():
        raise ValueError(f'dtype must be one of {", ".join(map(repr, DTYPES))}, got {dtype!r}; set optim_wrapper.dtype')
    if found is torch.bfloat16 and device_type == 'cuda' and not computes_bfloat16():
        raise ValueError("this GPU does not compute in bfloat16; set optim_wrapper.dtype='float16'")
    return found


def computes_bfloat16() -> bool:
    """Whether the GPU computes in bfloat16 itself. torch also answers yes for older ones, which emulate it, many times slower."""
    is_asked_apart = 'including_emulation' in inspect.signature(torch.cuda.is_bf16_supported).parameters  # not before torch 2.4
    return torch.cuda.is_bf16_supported(**({'including_emulation': False} if is_asked_apart else {}))


def scaler_settings(loss_scale: str | float | dict[str, Any]) -> tuple[dict[str, Any], float | None]:
    """Arguments of ``GradScaler``, and the scale to keep if it is a static one.

    Args:
        loss_scale: ``'dynamic'``, a number (static), or a dict of ``GradScaler``'s arguments (dynamic).

    Raises:
        ValueError: If it is anything else, or a scale that can only shrink, vanish or explode.
    """
    if loss_scale == 'dynamic':
        return {}, None
    if isinstance(loss_scale, dict) and not set(loss_scale) - set(SCALER_SETTINGS):
        return _checked_scaler(loss_scale), None
    if is_finite_number(loss_scale) and loss_scale > 0:
        return dict(init_scale=float(loss_scale)), float(loss_scale)
    raise ValueError(
        f"loss_scale must be 'dynamic', a number > 0 or a dict of {', '.join(SCALER_SETTINGS)}, got "
        f'{loss_scale!r}; set optim_wrapper.loss_scale'
    )


def _checked_scaler(settings: dict[str, Any]) -> dict[str, Any]:
    mend = 'set optim_wrapper.loss_scale'
    positive('loss_scale.init_scale', settings.get('init_scale', 1.0), mend=mend)
    if finite_number('loss_scale.growth_factor', settings.get('growth_factor', 2.0), 1, mend=mend) == 1:
        raise ValueError(f'loss_scale.growth_factor must be > 1, got {settings["growth_factor"]!r}; {mend}')
    positive('loss_scale.backoff_factor', settings.get('backoff_factor', 0.5), below=1, mend=mend)
    positive_int('loss_scale.growth_interval', settings.get('growth_interval', 1), mend)
    return dict(settings)


def build_scaler(settings: dict[str, Any], device_type: str) -> torch.amp.GradScaler:
    """A new gradient scaler. torch < 2.3 has scalers for CUDA alone, and none is at work on a CPU there."""
    if hasattr(torch.amp, 'GradScaler'):
        return torch.amp.GradScaler(device_type, **settings)
    return torch.cuda.amp.GradScaler(enabled=device_type == 'cuda', **settings)
