import math

import pytest
import torch
from goldens import assert_close, load_golden
from module_goldens import FORWARD

from bevfusion_plugin.models.head.transfusion_targets import draw_gaussians, gaussian_radius, heatmap_targets

TRAIN_CFG = dict(
    point_cloud_range=[-8.0, -4.0, -5.0, 8.0, 4.0, 3.0],
    voxel_size=[0.25, 0.25, 0.2],
    grid_size=[64, 32, 40],
    out_size_factor=4,
    gaussian_overlap=0.1,
    min_radius=2,
)  # 16 x 8 cells of 1 m


def drawn_cell_by_cell(shape, labels, centers, radii):
    heatmap = torch.zeros(shape)
    for label, (x, y), radius in zip(labels.tolist(), centers.tolist(), radii.tolist()):
        for i in range(max(0, x - radius), min(shape[1], x + radius + 1)):
            for j in range(max(0, y - radius), min(shape[2], y + radius + 1)):
                sigma = (2 * radius + 1) / 6
                value = math.exp(-((i - x) ** 2 + (j - y) ** 2) / (2 * sigma * sigma))
                heatmap[label, i, j] = max(heatmap[label, i, j], value)
    return heatmap


def box(x, y, length=2.0, width=1.0):
    return torch.tensor([[x, y, 0.0, length, width, 1.5, 0.3, 0.0, 0.0]])


def test_radius_equals_the_reference():
    golden = load_golden('gaussian')
    radius = gaussian_radius(golden['in/sizes'], golden.meta['min_overlap'])
    assert_close(radius, golden['out/radius'], FORWARD, 'radius')


def test_radius_does_not_depend_on_the_order_of_the_sides():
    sizes = torch.rand(50, 2) * 20
    assert torch.equal(gaussian_radius(sizes, 0.1), gaussian_radius(sizes.flip(1), 0.1))


def test_drawn_peaks_equal_the_reference_exactly():
    golden = load_golden('gaussian')
    columns, rows, radii = golden['in/draws'].T
    heatmap = draw_gaussians(torch.zeros(1, 14, 17), torch.zeros_like(radii), torch.stack([rows, columns], 1), radii)
    assert torch.equal(heatmap[0], golden['out/heatmap'])


def test_drawn_peaks_equal_a_loop_over_cells_also_across_and_outside_the_border():
    labels, radii = torch.randint(3, (40,)), torch.randint(0, 6, (40,))
    centers = torch.stack([torch.randint(-8, 27, (40,)), torch.randint(-8, 17, (40,))], dim=1)
    assert torch.equal(
        draw_gaussians(torch.zeros(3, 19, 9), labels, centers, radii), drawn_cell_by_cell((3, 19, 9), labels, centers, radii)
    )


def test_drawing_keeps_larger_values_and_the_given_map():
    before = torch.full((1, 5, 5), 0.5)
    after = draw_gaussians(before, torch.tensor([0]), torch.tensor([[2, 2]]), torch.tensor([2]))
    assert after[0, 2, 2] == 1 and after[0, 0, 0] == 0.5
    assert (before == 0.5).all()


def test_heatmap_is_indexed_x_first_and_has_its_peak_in_the_box_cell():
    heatmap = heatmap_targets(box(5.6, -2.2), torch.tensor([1]), 3, TRAIN_CFG)
    assert heatmap.shape == (3, 16, 8)
    assert (heatmap == 1).nonzero().tolist() == [[1, 13, 1]]  # 13.6 and 1.8 cells, rounded down
    assert not heatmap[[0, 2]].any()


def test_centre_just_below_the_border_counts_to_the_first_cell():
    heatmap = heatmap_targets(box(-8.7, 0.0), torch.tensor([0]), 1, TRAIN_CFG)
    assert (heatmap == 1).nonzero().tolist() == [[0, 0, 4]]


def test_peaks_are_at_least_min_radius_wide():
    heatmap = heatmap_targets(box(0.0, 0.0, 0.1, 0.1), torch.tensor([0]), 1, TRAIN_CFG)
    assert (heatmap > 0).sum() == 5 * 5


@pytest.mark.parametrize('boxes', [torch.zeros(0, 9), box(0.0, 0.0, length=0.0)])
def test_no_boxes_and_boxes_without_extent_leave_the_heatmap_empty(boxes):
    heatmap = heatmap_targets(boxes, torch.zeros(len(boxes), dtype=torch.long), 2, TRAIN_CFG)
    assert heatmap.shape == (2, 16, 8) and not heatmap.any()
