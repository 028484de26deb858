"""A machine with GPUs of chosen sizes, as far as torch tells."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from bevfusion_plugin.plan.memory_model import GIB


def pretend_gpus(monkeypatch: pytest.MonkeyPatch, *gib: float) -> None:
    """Have torch tell of one GPU for each of these sizes."""
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: bool(gib))
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: len(gib))
    monkeypatch.setattr(torch.cuda, 'get_device_properties', lambda index: SimpleNamespace(total_memory=gib[index] * GIB))
