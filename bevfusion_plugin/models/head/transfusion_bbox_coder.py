"""Boxes in metres to the head's regression targets and back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from bevfusion_plugin.plan.checked_settings import checked_share, corners, finite_numbers, positive_int, positive_numbers
from bevfusion_plugin.registry import TASK_UTILS


def two_or_more(name: str, value: Sequence[float]) -> Sequence[float]:
    """``value`` itself, at least (x, y).

    Raises:
        ValueError: If it is shorter or holds what is no finite number.
    """
    if len(finite_numbers(name, value)) < 2:
        raise ValueError(f'{name} must be (x, y) or longer, got {value!r}')
    return value


@TASK_UTILS.register_module()
class TransFusionBBoxCoder(nn.Module):
    """Encodes boxes as (x, y in cells, z of the gravity centre, log l, log w, log h, sin yaw, cos yaw[, vx, vy]).

    It is a module for its constants, which go with the model to its device; none of them is saved.
    Boxes are (x, y, z, l, w, h, yaw[, vx, vy]) in metres, radians and m/s, lidar frame, z at the bottom centre.

    Args:
        pc_range: (x_min, y_min) of the BEV map in metres; more numbers are ignored.
        out_size_factor: Voxels along the side of a BEV cell.
        voxel_size: (x, y) of a voxel in metres; more numbers are ignored.
        post_center_range: (x_min, y_min, z_min, x_max, y_max, z_max) in metres that the bottom centre of a kept box
            lies in; None keeps all.
        score_threshold: Boxes are kept above this score; None, and 0.0 as in the reference, keep all.
        code_size: 10, or 8 without velocity.

    Raises:
        ValueError: If ``code_size`` is neither, or another argument cannot be.

    Source: mmdetection3d projects/BEVFusion. Differs in that ``decode`` leaves its arguments and the coder unchanged
        and ``post_center_range=None`` works.
    """

    origin: Tensor
    cell: Tensor
    center_bounds: Tensor

    def __init__(
        self,
        pc_range: Sequence[float],
        out_size_factor: int,
        voxel_size: Sequence[float],
        post_center_range: Sequence[float] | None = None,
        score_threshold: float | None = None,
        code_size: int = 8,
    ) -> None:
        if isinstance(code_size, bool) or code_size not in (8, 10):
            raise ValueError(f'code_size must be 10, or 8 without velocity, got {code_size}; set bbox_coder.code_size')
        super().__init__()
        self.pc_range = two_or_more('pc_range', pc_range)
        self.out_size_factor = positive_int('out_size_factor', out_size_factor)
        self.voxel_size = two_or_more('voxel_size', voxel_size)
        positive_numbers('voxel_size', voxel_size, mend='in metres')
        self.post_center_range = post_center_range if post_center_range is None else corners('post_center_range', post_center_range)
        self.score_threshold = score_threshold if score_threshold is None else checked_share('score_threshold', score_threshold)
        self.code_size = code_size
        cell = [out_size_factor * voxel_size[axis] for axis in (0, 1)]
        for name, values in (('origin', pc_range[:2]), ('cell', cell), ('center_bounds', post_center_range or ())):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32), persistent=False)

    def encode(self, dst_boxes: Tensor) -> Tensor:
        """Regression targets (..., code_size) of ``dst_boxes`` (..., 7 or 9).

        Raises:
            ValueError: If ``code_size`` is 10 and the boxes have no velocity.
        """
        if dst_boxes.numel() == 0:  # mmdet3d gives an empty set of boxes 7 columns, velocity or not
            return dst_boxes.new_zeros(*dst_boxes.shape[:-1], self.code_size)
        if dst_boxes.shape[-1] < self.code_size - 1:
            raise ValueError(
                f'code_size {self.code_size} needs boxes of {self.code_size - 1} columns (with velocity), '
                f'got {dst_boxes.shape[-1]}; load the velocity, or set bbox_coder.code_size=8 and leave '
                'vel out of common_heads'
            )
        height = dst_boxes[..., 2:3] + dst_boxes[..., 5:6] * 0.5
        yaw = dst_boxes[..., 6:7]
        return torch.cat(
            [
                (dst_boxes[..., :2] - self.origin) / self.cell,
                height,
                dst_boxes[..., 3:6].log(),
                yaw.sin(),
                yaw.cos(),
                dst_boxes[..., 7 : self.code_size - 1],
            ],
            dim=-1,
        )

    def decode_boxes(self, rot: Tensor, dim: Tensor, center: Tensor, height: Tensor, vel: Tensor | None) -> Tensor:
        """Boxes (B, Q, 7 or 9) of all queries; arguments as for ``decode``."""
        size = dim.exp()
        parts = [
            center * self.cell[:, None] + self.origin[:, None],
            height - size[:, 2:3] * 0.5,
            size,
            torch.atan2(rot[:, 0:1], rot[:, 1:2]),
        ]
        return torch.cat(parts if vel is None else [*parts, vel], dim=1).permute(0, 2, 1)  # (B, Q, 7 or 9)

    def decode(
        self, heatmap: Tensor, rot: Tensor, dim: Tensor, center: Tensor, height: Tensor, vel: Tensor | None, filter: bool = False
    ) -> list[dict[str, Tensor]]:
        """Boxes of each sample: a dict of ``bboxes`` (Q, 7 or 9), ``scores`` (Q,) and ``labels`` (Q,) per sample.

        Args:
            heatmap: (B, num_classes, Q) score of each class; the best one gives score and label.
            rot: (B, 2, Q) sine and cosine of the yaw, up to a common factor.
            dim: (B, 3, Q) logarithm of l, w, h.
            center: (B, 2, Q) x and y in cells.
            height: (B, 1, Q) z of the gravity centre in metres.
            vel: (B, 2, Q) velocity in m/s, or None.
            filter: Keep only boxes inside ``post_center_range`` and above ``score_threshold``.
        """
        scores, labels = heatmap.max(1)
        boxes = self.decode_boxes(rot, dim, center, height, vel)
        samples: Iterable[tuple[Tensor, ...]] = zip(boxes, scores, labels)
        if filter:
            kept = self._kept(boxes, scores).cpu()  # the number of boxes decides shapes, so the host must wait for it: once
            rows = [mask.nonzero().squeeze(1).to(boxes.device, non_blocking=True) for mask in kept]
            samples = (tuple(values[chosen] for values in sample) for sample, chosen in zip(samples, rows))
        return [dict(bboxes=b, scores=s, labels=c) for b, s, c in samples]

    def _kept(self, boxes: Tensor, scores: Tensor) -> Tensor:
        kept = torch.ones_like(scores, dtype=torch.bool)
        if self.post_center_range is not None:
            low, high = self.center_bounds.split(3)
            kept &= ((boxes[..., :3] >= low) & (boxes[..., :3] <= high)).all(-1)
        if self.score_threshold:
            kept &= scores > self.score_threshold
        return kept
