"""One step of the demo's model, in float16 on pretended CUDA: what it launches, where the host waits, and what comes of it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from pretended_cuda import PretendedCuda, to_cuda
from torch import Tensor, nn

from bevfusion_plugin.doctor.memory.synthetic_batch import synthetic_batch
from bevfusion_plugin.registry import MODELS, build_nested

CONFIG = Path(__file__).parents[2] / 'configs' / 'bevfusion_demo.py'
ENCODER = ('sparse/', 'lidar/')  # folders of the sparse encoder's code


class CountedStep(NamedTuple):
    """A training step that is over."""

    model: nn.Module
    losses: dict[str, Tensor]
    cuda: PretendedCuda
    forward_launches: int
    """Kernels of the forward pass outside the sparse encoder."""

    def waits(self, leave_out: tuple[str, ...] = ()) -> int:
        """How often the host waited, but for the places that start with one of ``leave_out``."""
        return sum(number for (place, _), number in self.cuda.waits.items() if not place.startswith(leave_out))


def demo_model() -> nn.Module:
    """The demo's model with random weights, on the CPU."""
    cfg = copy.deepcopy(Config.fromfile(CONFIG).model)
    cfg.img_backbone.pop('init_cfg', None)
    torch.manual_seed(0)
    return build_nested(MODELS, cfg)


def demo_batch(samples: int = 1, cameras: int = 2, share: float = 0.05) -> dict[str, Any]:
    """Made-up images, points and boxes as the model takes them, on the CPU; ``share`` of the lidar's full turn."""
    batch = synthetic_batch(Config.fromfile(CONFIG), samples, cameras, share)
    images = torch.stack(batch['inputs']['img']) / 255
    return dict(points=batch['inputs']['points'], imgs=images, data_samples=batch['data_samples'])


def on_device(batch: dict[str, Any]) -> tuple[dict[str, Any], list]:
    """The batch as the model's two arguments, on the pretended device."""
    for sample in batch['data_samples']:
        truth = sample.gt_instances_3d
        truth.bboxes_3d.tensor, truth.labels_3d = to_cuda((truth.bboxes_3d.tensor, truth.labels_3d))
    return to_cuda(dict(points=batch['points'], imgs=batch['imgs'])), batch['data_samples']


def counted_step(batch: dict[str, Any]) -> CountedStep:
    """Losses and gradients of a batch in float16."""
    with PretendedCuda().pretend() as cuda:
        model = to_cuda(demo_model().train())
        inputs, samples = on_device(batch)
        with torch.autocast('cuda', dtype=torch.float16):
            losses = model.loss(inputs, samples)
        forward = sum(number for (place, _), number in cuda.launches.items() if not place.startswith(ENCODER))
        (128 * sum(value for name, value in losses.items() if 'loss' in name)).backward()
    return CountedStep(model, losses, cuda, forward)
