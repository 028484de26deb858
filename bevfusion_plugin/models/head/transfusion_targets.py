"""What TransFusion's head should predict: heatmaps of the boxes' centres, and the class and box of each query.

Letters: G ground-truth boxes, Q queries, X x Y cells of the BEV map, axis by axis along x and y.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from bevfusion_plugin.models.head.transfusion_bbox_coder import TransFusionBBoxCoder
from bevfusion_plugin.ops.map_size import cells_after_strides


class TransFusionTargets(NamedTuple):
    """Targets of a batch, in the reference's order; L is the number of supervised decoder layers."""

    labels: Tensor
    """(B, L * Q) class of each query, ``num_classes`` for background."""
    label_weights: Tensor
    """(B, L * Q) int64 weights in the classification loss."""
    bbox_targets: Tensor
    """(B, L * Q, code_size) encoded boxes, 0 for background."""
    bbox_weights: Tensor
    """(B, L * Q, code_size) 1 for queries with a box, 0 for background."""
    ious: Tensor
    """(B, L * Q) IoU with the matched box in [0, 1], 0 for background."""
    num_pos: Tensor
    """() int64: queries with a box, over all samples and layers."""
    matched_ious: Tensor
    """(): mean over the samples of the mean IoU of the queries with a box."""
    heatmap: Tensor
    """(B, num_classes, X, Y) Gaussian peaks, 1 at the cells of the boxes' centres."""


def map_cells(cfg: Mapping) -> tuple[int, int]:
    """Cells (X, Y) of the BEV map: ``grid_size`` in voxels divided by ``out_size_factor``, rounded up as padded convolutions do."""
    x, y = (cells_after_strides(cells, cfg['out_size_factor']) for cells in cfg['grid_size'][:2])
    return x, y


def gaussian_radius(sizes: Tensor, min_overlap: float) -> Tensor:
    """Radius (G,) in cells within which a shifted corner pair still overlaps its box by ``min_overlap``.

    The smallest of three cases: both corners shifted the same way, both inwards, both outwards.

    Args:
        sizes: (G, 2) side lengths of the boxes in cells; their order does not matter.
        min_overlap: IoU in (0, 1).

    Source: CornerNet (arXiv 1808.01244) in CenterNet's form, where every case divides by 2 instead of by 2a.
    """
    total, area = sizes.sum(1), sizes.prod(1)
    cases = (
        (1, total, area * (1 - min_overlap) / (1 + min_overlap)),
        (4, 2 * total, (1 - min_overlap) * area),
        (4 * min_overlap, -2 * min_overlap * total, (min_overlap - 1) * area),
    )
    return torch.stack([(b + (b.square() - 4 * a * c).clamp(min=0).sqrt()) / 2 for a, b, c in cases]).amin(0)


def draw_gaussians(heatmap: Tensor, labels: Tensor, centers: Tensor, radii: Tensor) -> Tensor:
    """``heatmap`` with a Gaussian peak for every box; where peaks overlap the largest value stays.

    A peak has sigma = (2 r + 1) / 6 and covers the cells up to r away along each axis, cut at the map's border.
    Its corner value is above exp(-9), so the reference's cut at the machine epsilon never acts.

    Args:
        heatmap: (num_classes, X, Y); not changed.
        labels: (G,) class of each peak, on the host like the other two: how many cells they cover decides shapes.
        centers: (G, 2) integer cell (x, y); may lie outside the map.
        radii: (G,) integer radius r.

    Source: CenterNet (arXiv 1904.07850, section 3).
    """
    size = torch.tensor(heatmap.shape[1:])
    low = (centers - radii[:, None]).clamp(min=0)
    extent = (torch.minimum(centers + radii[:, None] + 1, size) - low).clamp(min=0)  # (G, 2)
    cells = extent.prod(1)  # (G,): cells each peak covers
    box = torch.repeat_interleave(torch.arange(len(cells)), cells)  # (pairs of box and cell,)
    nth = torch.arange(len(box)) - (cells.cumsum(0) - cells)[box]
    offset = torch.stack([nth // extent[box, 1], nth % extent[box, 1]], dim=1)
    x, y = (low[box] + offset).unbind(1)
    squared_distance = (low[box] + offset - centers[box]).square().sum(1)
    sigma = (2 * radii + 1).double() / 6  # float64 like the reference, rounded once at the end
    peak = torch.exp(-squared_distance / (2 * sigma * sigma)[box]).to(heatmap.dtype)
    index = (labels[box] * size[0] + x) * size[1] + y
    index, peak = (values.to(heatmap.device, non_blocking=True) for values in (index, peak))
    return heatmap.flatten().scatter_reduce(0, index, peak, reduce='amax').view_as(heatmap)


def heatmap_targets(
    gt_bboxes: Tensor, gt_labels: Tensor, num_classes: int, train_cfg: Mapping, device: torch.device | str = 'cpu'
) -> Tensor:
    """Heatmap (num_classes, X, Y) with a Gaussian peak at the cell of every box.

    The cell is the centre's position truncated toward zero, as in the reference: a centre up to one cell below the
    map's border counts to the first cell. Boxes of no length or width are left out.

    Args:
        gt_bboxes: (G, >= 7) boxes in metres, lidar frame, on the host.
        gt_labels: (G,) class indices, on the host.
        num_classes: Number of classes.
        train_cfg: The head's ``grid_size``, ``point_cloud_range``, ``voxel_size``, ``out_size_factor``,
            ``gaussian_overlap`` and ``min_radius`` (smallest radius in cells).
        device: Where the heatmap is needed; only the cells of the peaks go there.
    """
    factor = train_cfg['out_size_factor']
    voxel_size = gt_bboxes.new_tensor(train_cfg['voxel_size'][:2])
    low = gt_bboxes.new_tensor(train_cfg['point_cloud_range'][:2])
    sizes = gt_bboxes[:, 3:5] / voxel_size / factor
    radii = gaussian_radius(sizes, train_cfg['gaussian_overlap']).long().clamp(min=train_cfg['min_radius'])
    centers = ((gt_bboxes[:, :2] - low) / voxel_size / factor).long()
    drawn = (sizes > 0).all(1)
    heatmap = torch.zeros(num_classes, *map_cells(train_cfg), dtype=gt_bboxes.dtype, device=device)
    return draw_gaussians(heatmap, gt_labels[drawn], centers[drawn], radii[drawn])


def batch_heatmaps(
    gt_bboxes: Tensor, gt_labels: Tensor, counts: Sequence[int], num_classes: int, train_cfg: Mapping, device: torch.device
) -> Tensor:
    """Heatmaps (B, num_classes, X, Y) of a batch, drawn at once as if each sample had classes of its own.

    Args:
        gt_bboxes: (B, G, >= 7), others as for :func:`heatmap_targets`.
        gt_labels: (B, G).
        counts: How many of the G boxes each sample has.
        num_classes: Number of classes.
        train_cfg: See there.
        device: See there.
    """
    own = torch.arange(gt_labels.shape[1]) < torch.tensor(counts)[:, None]  # (B, G)
    maps = gt_labels + num_classes * torch.arange(len(counts))[:, None]
    heatmaps = heatmap_targets(gt_bboxes[own], maps[own], num_classes * len(counts), train_cfg, device)
    return heatmaps.unflatten(0, (len(counts), num_classes))


def query_targets(
    gt_inds: Tensor, gt_bboxes: Tensor, gt_labels: Tensor, num_classes: int, pos_weight: float, bbox_coder: TransFusionBBoxCoder
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Labels, label weights, box targets and box weights of the queries, as in ``TransFusionTargets``.

    Args:
        gt_inds: (B, Q) 1-based index of the matched box, 0 for background.
        gt_bboxes: (B, G, 7 or 9) boxes in metres, lidar frame.
        gt_labels: (B, G) class indices.
        num_classes: Number of classes; also the label of the background.
        pos_weight: Weight of matched queries in the classification loss; <= 0 means 1.
        bbox_coder: Encodes the boxes.
    """
    background = gt_inds == 0
    matched = (gt_inds - 1).clamp(min=0)
    labels = gt_labels.gather(1, matched).masked_fill(background, num_classes)
    label_weights = torch.where(background, 1, int(pos_weight)) if pos_weight > 0 else torch.ones_like(gt_inds)
    codes = bbox_coder.encode(gt_bboxes)  # (B, G, code_size)
    every = gt_inds[..., None].expand(-1, -1, codes.shape[-1])
    bbox_targets = codes.gather(1, matched[..., None].expand_as(every)).masked_fill(background[..., None], 0)
    return labels, label_weights, bbox_targets, (every > 0).to(bbox_targets.dtype)
