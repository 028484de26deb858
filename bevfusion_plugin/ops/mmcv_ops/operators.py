"""The operators under the names and with the arguments that ``mmcv.ops`` gives the extension ``mmcv._ext``.

Results go into tensors of the caller where mmcv wants them there.

Source: the calls in mmcv 2.1.0, ``mmcv/ops/*.py``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bevfusion_plugin.ops.mmcv_ops.focal_loss import class_weights, focal_terms
from bevfusion_plugin.ops.mmcv_ops.point_to_voxel import check_reduction, group_by_cell, reduce_points, spread_gradient
from bevfusion_plugin.ops.mmcv_ops.points_in_boxes import first_box, inside_boxes
from bevfusion_plugin.ops.mmcv_ops.rotated_boxes import in_chunks, rotated_overlaps, shared_area
from bevfusion_plugin.ops.mmcv_ops.suppression import (
    greedy_keep,
    overlapping_from_above,
    overlapping_rotated,
    overlapping_upright,
    seen_from_above,
    soft_keep,
)
from bevfusion_plugin.ops.voxelize import dynamic_voxelize, hard_voxelize

__all__ = [
    'box_iou_rotated',
    'dynamic_point_to_voxel_backward',
    'dynamic_point_to_voxel_forward',
    'dynamic_voxelize_forward',
    'get_compiler_version',
    'get_compiling_cuda_version',
    'hard_voxelize_forward',
    'iou3d_boxes_overlap_bev_forward',
    'iou3d_nms3d_forward',
    'iou3d_nms3d_normal_forward',
    'nms',
    'nms_rotated',
    'points_in_boxes_all_forward',
    'points_in_boxes_cpu_forward',
    'points_in_boxes_part_forward',
    'sigmoid_focal_loss_backward',
    'sigmoid_focal_loss_forward',
    'softnms',
]
NO_COMPILER = 'none: torch operators of bevfusion_plugin'
NO_CUDA = 'not available'  # mmcv's own words for a build without CUDA


def get_compiler_version() -> str:
    """What ``collect_env`` prints as mmcv's compiler."""
    return NO_COMPILER


def get_compiling_cuda_version() -> str:
    """What ``collect_env`` prints as mmcv's CUDA compiler."""
    return NO_CUDA


def _full(values: Tensor) -> Tensor:
    """In float32 at least: areas and logarithms do not fit half precision."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def box_iou_rotated(boxes1: Tensor, boxes2: Tensor, ious: Tensor, mode_flag: int, aligned: bool) -> None:
    """IoU (mode 0) or share of the first (mode 1) of boxes (N, 5) and (M, 5) into ``ious``: (N * M,), aligned (N,)."""

    def overlaps(first: Tensor, second: Tensor) -> Tensor:
        return rotated_overlaps(first, second, of_first=mode_flag == 1)

    ious.copy_(overlaps(boxes1, boxes2) if aligned else in_chunks(overlaps, boxes1, boxes2).view_as(ious))


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """(K,) rows of the upright boxes (N, 4) that are kept, by falling score."""
    order = scores.sort(descending=True, stable=True)[1]
    return order[greedy_keep(_full(boxes)[order], overlapping_upright(iou_threshold, offset))]


def softnms(
    boxes: Tensor, scores: Tensor, dets: Tensor, iou_threshold: float, sigma: float, min_score: float, method: int, offset: int
) -> Tensor:
    """(K,) rows that soft suppression keeps; boxes and new scores go into the first K rows of ``dets`` (N, 5).

    ``method`` is 0 (a box that overlaps loses all), 1 (linear) or 2 (Gaussian).
    """
    weights = (
        lambda iou: (iou < iou_threshold).to(iou),
        lambda iou: torch.where(iou >= iou_threshold, 1 - iou, 1.0),
        lambda iou: (-iou * iou / sigma).exp(),
    )
    rows, new_scores = soft_keep(boxes, scores, weights[method], min_score, offset)
    dets[: len(rows), :4] = boxes[rows]
    dets[: len(rows), 4] = new_scores
    return rows


def nms_rotated(
    dets: Tensor, scores: Tensor, order: Tensor, dets_sorted: Tensor, labels: Tensor, iou_threshold: float, multi_label: bool
) -> Tensor:
    """(K,) rows of the boxes that are kept; ``dets_sorted`` (N, 5), with the label behind (N, 6) if ``multi_label``."""
    return order[greedy_keep(dets_sorted, overlapping_rotated(iou_threshold))]


def iou3d_boxes_overlap_bev_forward(boxes_a: Tensor, boxes_b: Tensor, ans_overlap: Tensor) -> None:
    """Area, seen from above, that boxes (N, 7) and (M, 7) share, into ``ans_overlap`` (N, M)."""
    ans_overlap.copy_(in_chunks(shared_area, seen_from_above(boxes_a), seen_from_above(boxes_b)))


def iou3d_nms3d_forward(boxes: Tensor, keep: Tensor, num_out: Tensor, nms_overlap_thresh: float) -> None:
    """Kept rows of boxes (N, 7), which come by falling score, into ``keep``, and their number into ``num_out``."""
    _write_kept(greedy_keep(boxes, overlapping_from_above(nms_overlap_thresh)), keep, num_out)


def iou3d_nms3d_normal_forward(boxes: Tensor, keep: Tensor, num_out: Tensor, nms_overlap_thresh: float) -> None:
    """The same as if no box were turned."""
    _write_kept(greedy_keep(boxes, overlapping_from_above(nms_overlap_thresh, with_yaw=False)), keep, num_out)


def _write_kept(kept: Tensor, keep: Tensor, num_out: Tensor) -> None:
    keep[: len(kept)] = kept.to(keep)
    num_out.fill_(len(kept))


def points_in_boxes_cpu_forward(boxes: Tensor, points: Tensor, indices: Tensor) -> None:
    """1 where a point (P, 3) lies in a box (T, 7), else 0, into ``indices`` (T, P)."""
    indices.copy_(inside_boxes(points, boxes).t())


def points_in_boxes_all_forward(boxes: Tensor, points: Tensor, indices: Tensor) -> None:
    """1 where a point (B, P, 3) lies in a box (B, T, 7), else 0, into ``indices`` (B, P, T)."""
    for sample, result in enumerate(indices):
        result.copy_(inside_boxes(points[sample], boxes[sample]))


def points_in_boxes_part_forward(boxes: Tensor, points: Tensor, indices: Tensor) -> None:
    """The first box (B, T, 7) in which each point (B, P, 3) lies, -1 without one, into ``indices`` (B, P)."""
    for sample, result in enumerate(indices):
        result.copy_(first_box(inside_boxes(points[sample], boxes[sample])))


def dynamic_voxelize_forward(points: Tensor, voxel_size: Tensor, coors_range: Tensor, coors: Tensor, NDim: int = 3) -> None:
    """Cell (z, y, x) of each point (P, C) into ``coors`` (P, 3), -1 outside the range."""
    coors.copy_(dynamic_voxelize(points, voxel_size.tolist(), coors_range.tolist()).flip(1))


def hard_voxelize_forward(
    points: Tensor,
    voxel_size: Tensor,
    coors_range: Tensor,
    voxels: Tensor,
    coors: Tensor,
    num_points_per_voxel: Tensor,
    voxel_num: Tensor,
    max_points: int,
    max_voxels: int,
    NDim: int = 3,
    deterministic: bool = True,
) -> None:
    """Points of each voxel, its cell (z, y, x) and its number of points into the first rows of the tensors given.

    The result never hangs on the order of threads, whatever ``deterministic`` says.
    """
    values, cells, counts = hard_voxelize(points, voxel_size.tolist(), coors_range.tolist(), max_points, max_voxels)
    voxels[: len(values)] = values
    coors[: len(values)] = cells.flip(1)
    num_points_per_voxel[: len(values)] = counts
    voxel_num.fill_(len(values))


def dynamic_point_to_voxel_forward(feats: Tensor, coors: Tensor, reduce_type: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Reduced features (V, C), cells (V, D), voxel of each point (P,) and points of each voxel (V,)."""
    check_reduction(reduce_type)
    voxels, voxel_of_point, counts = group_by_cell(coors)
    return reduce_points(feats, voxel_of_point, counts, reduce_type), voxels, voxel_of_point, counts


def dynamic_point_to_voxel_backward(
    grad_feats: Tensor,
    grad_voxel_feats: Tensor,
    feats: Tensor,
    voxel_feats: Tensor,
    point2voxel_map: Tensor,
    voxel_points_count: Tensor,
    reduce_type: str,
) -> None:
    """Gradient of the features into ``grad_feats`` (P, C)."""
    grad_feats.copy_(spread_gradient(grad_voxel_feats, feats, voxel_feats, point2voxel_map, voxel_points_count, reduce_type))


def sigmoid_focal_loss_forward(input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float) -> None:
    """Loss of each prediction and class (P, K) into ``output``."""
    output.copy_(focal_terms(_full(input), target, gamma, alpha)[0] * class_weights(weight, target))


def sigmoid_focal_loss_backward(input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float) -> None:
    """Derivative of that loss (P, K) into ``grad_input``."""
    grad_input.copy_(focal_terms(_full(input), target, gamma, alpha)[1] * class_weights(weight, target))
