"""A config's model, built for its names and shapes alone."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor


def build_model_state(cfg: Config) -> Mapping[str, Tensor]:
    """State dict of ``cfg``'s model, without weights loaded.

    It is built on the meta device, where parameters take neither time nor memory; a model that computes with its parameters
    while it is built cannot be, and is built on the CPU.
    """
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    try:
        with torch.device('meta'):
            return MODELS.build(cfg.model).state_dict()
    except (NotImplementedError, RuntimeError):  # "Tensor.item() cannot be called on meta tensors" and its kin
        return MODELS.build(cfg.model).state_dict()
