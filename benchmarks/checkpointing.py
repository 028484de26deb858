"""Times one training step with activation checkpointing against one without, and measures the memory of both.

The demo's model with four samples, then the full-size one with one: six cameras and the density of ten lidar sweeps, float32, on the CPU.

Example:
    python benchmarks/checkpointing.py --threads 2 --repeats 2
"""
from __future__ import annotations

from pathlib import Path

from mmengine.config import Config
from on_gpu.training import Training
from side_by_side import Computation, compare, parse_args
from torch import Tensor

CONFIGS = Path(__file__).resolve().parents[1] / 'configs'


def step(with_cp: bool, config: str, samples: int) -> Computation:
    """Forward and backward pass, no update: the gradients of image backbone, view transform and sparse encoder."""
    training = Training(Config.fromfile(CONFIGS / config), 'cpu', samples, 'float32', with_cp)

    def compute() -> list[Tensor]:
        data = training.model.data_preprocessor(training.batch, True)
        losses, _ = training.model.parse_losses(training.model(**data, mode='loss'))
        training.model.zero_grad()
        losses.backward()
        parts = training.model.img_backbone, training.model.view_transform, training.model.pts_middle_encoder
        return [parameter.grad for part in parts for parameter in part.parameters() if parameter.grad is not None]

    return compute


def kept(**size: str | int) -> Computation:
    return step(with_cp=False, **size)


def run_again(**size: str | int) -> Computation:
    return step(with_cp=True, **size)


def main() -> None:
    args = parse_args(__doc__)
    for config, samples in (('bevfusion_demo.py', 4), ('bevfusion_4x4090.py', 1)):
        compare(f'one training step, {config}, {samples} samples', {'model.with_cp=False': kept, 'model.with_cp=True': run_again}, args,
                config=config, samples=samples)


if __name__ == '__main__':
    main()
