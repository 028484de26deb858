"""The memory that a BEVFusion config's training needs, counted on a CPU or measured on a GPU.

What is counted is one sample with one camera at the real image size and a sector of a lidar scene at the real density, so that
nothing but numbers of images and of voxels has to be scaled; the bird's-eye view has its real size. A real sample is taken to
fill ``max_voxels``: the ten sweeps of nuScenes have about as many.
"""

from __future__ import annotations

import copy
import functools
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from mmengine.registry import OPTIMIZERS
from torch import nn

from bevfusion_plugin.doctor.memory.saved_tensors import (
    SavedTensorCounter,
    WithoutProducts,
    checkpointed_bytes,
    cuda_autocast,
    gradient_bytes,
    innermost,
    optimizer_state_bytes,
    parameter_bytes,
)
from bevfusion_plugin.doctor.memory.synthetic_batch import cameras_of, real_sizes, synthetic_batch
from bevfusion_plugin.plan.memory_model import ALLOWANCES, GIB, ModelMemory, SavedBytes

SECTOR = 1 / 8  # of the lidar's full turn, in the forward pass that is counted
# What the bytes of a part follow; in the order that they run. The bird's-eye view has the same size in every sample.
LAWS = {
    'img_backbone': 'pixels',
    'img_neck': 'pixels',
    'view_transform': 'pixels',
    'view_transform.downsample': 'samples',
    'pts_voxel_encoder': 'voxels',
    'pts_middle_encoder': 'voxels',
    'fusion_layer': 'samples',
    'pts_backbone': 'samples',
    'pts_neck': 'samples',
    'bbox_head': 'samples',
    '': 'samples',
}


def build_model(cfg: Config, with_cp: bool = False) -> BaseModel:
    """The config's model in training mode with random weights.

    Args:
        cfg: The whole config.
        with_cp: Switch activation checkpointing on, as ``model.with_cp=True`` does.

    Raises:
        ValueError: If it is no BEVFusion.
    """
    _check_is_bevfusion(cfg)
    from bevfusion_plugin.registry import MODELS, build_nested  # builds parts of mmdet3d

    model = build_nested(MODELS, copy.deepcopy(cfg.model)).train()
    if with_cp:
        model.checkpoint(True)
    return model


def _check_is_bevfusion(cfg: Config) -> None:
    model = cfg.get('model') or {}
    if 'voxelize_cfg' not in (model.get('data_preprocessor') or {}) or 'pts_middle_encoder' not in model:
        raise ValueError(
            f'the memory model knows BEVFusion, got the model {model.get("type")!r}, without '
            'data_preprocessor.voxelize_cfg or pts_middle_encoder; leave --gpu-memory and --probe out'
        )


@contextmanager
def quiet_logger() -> Iterator[None]:
    """MMEngine's logger with warnings alone: what it prints otherwise would stand in the tool's output."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def count_forward(
    model: BaseModel, batch: dict[str, Any], dtype: torch.dtype, products: bool = False
) -> tuple[SavedBytes, list[SavedBytes], dict[str, float]]:
    """What one forward pass of ``model`` with all losses keeps, what checkpointing recomputes, and the sizes of the batch.

    Args:
        model: From :func:`build_model`, on the CPU.
        batch: From :func:`synthetic_batch`.
        dtype: What the GPU's autocast casts to; float32 for none.
        products: Whether to compute convolutions and matrix products, too.

    Raises:
        ValueError: If no point of the batch lies in the range that is voxelised.
    """
    parts = [name for name in LAWS if name and _submodule(model, name) is not None]
    voxels: list[int] = []
    encoder = model.pts_middle_encoder
    if encoder is None:
        voxels.append(1)
    handle = nullcontext() if encoder is None else encoder.register_forward_pre_hook(lambda _, args: voxels.append(len(args[0])))
    data = model.data_preprocessor(copy.deepcopy(batch), training=True)

    def forward() -> None:
        with cuda_autocast(dtype), nullcontext() if products else WithoutProducts():
            model.loss(data['inputs'], data['data_samples'])

    with handle:
        with SavedTensorCounter(model, parts) as counter:
            forward()
        again = checkpointed_bytes(model, parts, forward)
    if not voxels[0]:
        raise ValueError(
            f'no made-up point lies in point_cloud_range {model.voxelize_cfg["point_cloud_range"]}; the scene is '
            '50 m around a lidar 1.84 m above the ground'
        )
    largest: dict[str, SavedBytes] = {}  # of each part: which of the parts needs most is decided at the real sizes
    for name, each in again.items():
        part = innermost(parts, name)
        largest[part] = max(largest.get(part, each), each, key=lambda saved: saved.total)
    images = data['inputs'].get('imgs')
    pixels = 0 if images is None else images[:, :, 0].numel()
    sizes = dict(samples=len(batch['data_samples']), pixels=pixels, voxels=voxels[0])
    return counter.result(), list(largest.values()), sizes


def _submodule(model: nn.Module, name: str) -> nn.Module | None:
    found: nn.Module | None = model
    for step in name.split('.'):
        found = getattr(found, step, None)
    return found


def model_memory(cfg: Config, dtype: torch.dtype, with_cp: bool = False) -> ModelMemory:
    """The memory the config's training needs, from one small forward pass on the CPU.

    Args:
        cfg: The whole config.
        dtype: What the GPU's autocast casts to; float32 for none.
        with_cp: See :func:`build_model`.

    Raises:
        ValueError: If the model is no BEVFusion.
    """
    with quiet_logger():
        model = build_model(cfg, with_cp)
        saved, recomputed, sizes = count_forward(model, synthetic_batch(cfg, 1, min(1, cameras_of(cfg)), SECTOR), dtype)
    return ModelMemory(
        parameter_bytes(model),
        gradient_bytes(model),
        optimizer_state_bytes(model, cfg.optim_wrapper['optimizer']),
        _averaged_bytes(cfg, model),
        saved,
        recomputed,
        sizes,
        LAWS,
    )


def _averaged_bytes(cfg: Config, model: nn.Module) -> int:
    averages = any('EMAHook' in str(hook.get('type')) for hook in cfg.get('custom_hooks') or [])
    return parameter_bytes(model) if averages else 0


def memory_rows(cfg: Config, ranks: int, dtype: torch.dtype, with_cp: bool, probe: bool) -> Callable[[int], Mapping[str, float]]:
    """Function that gives, for b samples, the bytes a GPU needs by what needs them.

    Args:
        cfg: The whole config.
        ranks: Ranks, W.
        dtype: What autocast casts to; float32 for none.
        with_cp: See :func:`build_model`.
        probe: Measure each b on this machine's GPU; False: compute from one forward pass on the CPU.

    Raises:
        ValueError: If the model is no BEVFusion, or there is no GPU to measure on.
    """
    if probe:
        gpu_gib()
        return functools.cache(lambda samples: measured_rows(cfg, samples, ranks, dtype, with_cp))
    model = model_memory(cfg, dtype, with_cp)
    return lambda samples: model.rows(real_sizes(cfg, samples), ranks)


def gpu_gib() -> float:
    """GiB of this machine's first GPU.

    Raises:
        ValueError: If there is none.
    """
    if not torch.cuda.is_available():
        raise ValueError('--probe measures on a GPU, and torch finds none; --gpu-memory without --probe computes')
    return torch.cuda.get_device_properties(0).total_memory / GIB


def measured_rows(cfg: Config, samples: int, ranks: int, dtype: torch.dtype, with_cp: bool = False) -> dict[str, float]:
    """What one update of real size had in use at most on this machine's GPU, and what one process does not show.

    Arguments are those of :func:`memory_rows`. An update that runs out of memory needs infinitely much.
    """
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    with quiet_logger():
        model = build_model(cfg, with_cp).cuda()
        try:
            take_step(model, cfg, synthetic_batch(cfg, samples, cameras_of(cfg), share=1.0), dtype)
        except torch.cuda.OutOfMemoryError:
            return {'out of memory': float('inf')}
    return {
        'in use at most (measured)': torch.cuda.max_memory_allocated(),
        'buckets of DistributedDataParallel': gradient_bytes(model) if ranks > 1 else 0,
        'moving average of the weights': _averaged_bytes(cfg, model),
        **{f'{name} (estimate)': size for name, size in ALLOWANCES.items()},
    }


def take_step(model: BaseModel, cfg: Config, batch: dict[str, Any], dtype: torch.dtype) -> None:
    """One forward and backward pass with the optimizer's state in place, as from the second update on.

    Args:
        model: From :func:`build_model`, on the device that is to be measured.
        cfg: The whole config, for its optimizer.
        batch: From :func:`synthetic_batch`.
        dtype: What autocast casts to; float32 for none.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = OPTIMIZERS.build(dict(cfg.optim_wrapper['optimizer'], params=parameters))
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()  # makes the state
    optimizer.zero_grad()
    data = model.data_preprocessor(batch, training=True)
    with torch.autocast(parameters[0].device.type, dtype, enabled=dtype is not torch.float32):
        losses, _ = model.parse_losses(model.loss(data['inputs'], data['data_samples']))
    losses.backward()
