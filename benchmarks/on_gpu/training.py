"""A model, its optimizer wrapper and a batch on the device: one training step as MMEngine's Runner takes it, without data loading."""

from __future__ import annotations

import copy
import logging
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from bevfusion_plugin.doctor.memory.synthetic_batch import cameras_of, synthetic_batch
from bevfusion_plugin.registry import MODELS, build_nested

WRAPPER = 'bevfusion_plugin.AccumulativeAmpOptimWrapper'


class Training:
    """One rank's training on made-up sensor data; :meth:`step` takes one micro-batch.

    Args:
        cfg: The whole config.
        device: ``'cuda'`` or ``'cpu'``.
        samples: Samples of a micro-batch, b.
        dtype: Of autocast: float16, bfloat16 or float32 (none).
        with_cp: Activation checkpointing, as ``model.with_cp``.
        counts: Micro-batches of a window, A.
        share: Sector of the lidar's full turn.
        seed: Of weights and data.
    """

    def __init__(
        self, cfg: Config, device: str, samples: int, dtype: str, with_cp: bool = False, counts: int = 1, share: float = 1.0, seed: int = 0
    ) -> None:
        MMLogger.get_current_instance().setLevel(logging.WARNING)
        init_default_scope('mmdet3d')
        torch.manual_seed(seed)
        self.device, self.samples = device, samples
        self.model = build(cfg, with_cp).to(device)
        wrapper = dict(copy.deepcopy(cfg.optim_wrapper.to_dict()), type=WRAPPER, dtype=dtype, accumulative_counts=counts)
        for key in ('total_batch_size', 'paramwise_cfg'):
            wrapper.pop(key, None)
        # A scale that fits at once: a skipped update is a cheaper one, and the search for the scale is not what is measured.
        wrapper['loss_scale'] = dict(init_scale=2.0**8, growth_interval=10**6)
        self.wrapper = build_optim_wrapper(self.model, wrapper)
        self.wrapper.initialize_count_status(self.model, 0, 10**6)
        batch = synthetic_batch(cfg, samples, cameras_of(cfg), share, seed)
        self.batch = dict(
            inputs=tree_map_only(Tensor, lambda tensor: tensor.to(device), batch['inputs']),
            data_samples=[sample.to(device) for sample in batch['data_samples']],
        )

    def step(self) -> dict[str, Tensor]:
        """The losses of one micro-batch, after its backward pass and, at a window's end, the update."""
        return self.model.train_step(self.batch, self.wrapper)

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of it, and the random numbers' state, copied."""
        numbers = dict(cpu=torch.get_rng_state(), cuda=torch.cuda.get_rng_state_all() if self.device == 'cuda' else [])
        return copy.deepcopy(dict(model=self.model.state_dict(), wrapper=self.wrapper.state_dict(), numbers=numbers))

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state` of another training."""
        state = copy.deepcopy(state)
        self.model.load_state_dict(state['model'])
        self.wrapper.load_state_dict(state['wrapper'])
        torch.set_rng_state(state['numbers']['cpu'])
        if self.device == 'cuda':
            torch.cuda.set_rng_state_all(state['numbers']['cuda'])


def build(cfg: Config, with_cp: bool) -> nn.Module:
    """The config's model with the initial weights of a training that has no pretrained ones."""
    model_cfg = copy.deepcopy(cfg.model)
    if model_cfg.get('img_backbone'):
        model_cfg.img_backbone.pop('init_cfg', None)
    model_cfg.with_cp = with_cp
    model = build_nested(MODELS, model_cfg)
    model.init_weights()
    return model.train()


def synchronize(device: str) -> None:
    """Wait for the device."""
    if device == 'cuda':
        torch.cuda.synchronize()


def default_device() -> str:
    """``'cuda'`` where torch finds one, else ``'cpu'``."""
    return 'cuda' if get_device() == 'cuda' else 'cpu'
