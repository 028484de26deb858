"""Times the IoU of rotated boxes, 200 predictions by 60 objects as the matching of one frame asks for, against mmcv's compiled operator.

Example:
    python benchmarks/box_iou.py --threads 1
"""

from __future__ import annotations

import torch
from compiled_mmcv import need_compiled_operators
from side_by_side import Computation, compare, parse_args
from torch import Tensor

from bevfusion_plugin.ops.mmcv_ops.operators import box_iou_rotated

FRAMES, PREDICTIONS, OBJECTS = 100, 200, 60


def boxes(count: int) -> Tensor:
    """(FRAMES, count, 5): centres within 54 m, sizes up to 10 m, any angle."""
    scale = torch.tensor([108.0, 108.0, 10.0, 10.0, 2 * torch.pi])
    return (torch.rand(FRAMES, count, 5) - torch.tensor([0.5, 0.5, 0.0, 0.0, 0.0])) * scale


def of_every_frame(operator) -> Computation:
    first, second = boxes(PREDICTIONS), boxes(OBJECTS)

    def compute() -> list[Tensor]:
        ious = torch.zeros(FRAMES, PREDICTIONS * OBJECTS)
        for frame in range(FRAMES):
            operator(first[frame], second[frame], ious[frame], mode_flag=0, aligned=False)
        return [ious]

    return compute


def compiled() -> Computation:
    from mmcv._ext import box_iou_rotated as compiled_operator

    return of_every_frame(compiled_operator)


def ours() -> Computation:
    return of_every_frame(box_iou_rotated)


def main() -> None:
    args = parse_args(__doc__)
    need_compiled_operators()
    compare(f'IoU of {PREDICTIONS} x {OBJECTS} rotated boxes, {FRAMES} frames', {"mmcv's compiled operator": compiled, 'torch': ours}, args)


if __name__ == '__main__':
    main()
