import pytest
import torch

from bevfusion_plugin.ops.mmcv_ops.point_to_voxel import check_reduction, group_by_cell, reduce_points, spread_gradient

REDUCE = dict(sum=lambda rows: rows.sum(0), mean=lambda rows: rows.mean(0), max=lambda rows: rows.amax(0))


def cloud(n=120):
    cells = torch.randint(-1, 4, (n, 3), dtype=torch.int32)
    return torch.randn(n, 5, dtype=torch.float64), cells


def test_voxels_come_in_lexicographic_order():
    cells = torch.tensor([[1, 0, 2], [0, 3, 1], [-1, 0, 0], [1, 0, 2], [0, -2, 5], [0, 3, 0]], dtype=torch.int32)
    voxels, voxel_of_point, counts = group_by_cell(cells)
    assert voxels.tolist() == [[0, 3, 0], [0, 3, 1], [1, 0, 2]]
    assert voxel_of_point.tolist() == [2, 1, -1, 2, -1, 0] and counts.tolist() == [1, 1, 2]
    assert voxels.dtype == voxel_of_point.dtype == counts.dtype == torch.int32


@pytest.mark.parametrize('reduction', REDUCE)
def test_features_and_gradients_equal_a_loop_over_the_voxels(reduction):
    features, cells = cloud()
    features.requires_grad_()
    voxels, voxel_of_point, counts = group_by_cell(cells)
    expected = torch.stack([REDUCE[reduction](features[(cells == voxel).all(1)]) for voxel in voxels])
    reduced = reduce_points(features.detach(), voxel_of_point, counts, reduction)
    torch.testing.assert_close(reduced, expected)
    grad = torch.randn_like(expected)
    expected.backward(grad)
    actual = spread_gradient(grad, features.detach(), reduced, voxel_of_point, counts, reduction)
    torch.testing.assert_close(actual, features.grad)
    assert not actual[voxel_of_point < 0].any() and (voxel_of_point < 0).any()


def test_of_equal_maxima_the_first_point_takes_the_gradient():
    features = torch.tensor([[1.0, 5.0], [3.0, 5.0], [3.0, 2.0]])
    voxel_of_point, counts = torch.zeros(3, dtype=torch.int32), torch.tensor([3], dtype=torch.int32)
    grad = spread_gradient(torch.tensor([[7.0, 9.0]]), features, torch.tensor([[3.0, 5.0]]), voxel_of_point, counts, 'max')
    assert grad.tolist() == [[0.0, 9.0], [7.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize('reduction', REDUCE)
@pytest.mark.parametrize('n', [0, 4])
def test_no_point_in_any_voxel(reduction, n):
    features, cells = torch.randn(n, 5), torch.full((n, 3), -1, dtype=torch.int32)
    voxels, voxel_of_point, counts = group_by_cell(cells)
    reduced = reduce_points(features, voxel_of_point, counts, reduction)
    assert reduced.shape == (0, 5) and voxels.shape == (0, 3)
    assert spread_gradient(reduced, features, reduced, voxel_of_point, counts, reduction).tolist() == [[0.0] * 5] * n


def test_a_maximum_that_is_no_number_has_no_gradient():
    features = torch.tensor([[float('nan')], [1.0]])
    voxel_of_point, counts = torch.zeros(2, dtype=torch.int32), torch.tensor([2], dtype=torch.int32)
    reduced = reduce_points(features, voxel_of_point, counts, 'max')
    assert reduced.isnan().all()
    assert not spread_gradient(torch.ones(1, 1), features, reduced, voxel_of_point, counts, 'max').any()


def test_an_unknown_reduction_is_named():
    with pytest.raises(ValueError, match="sum, mean, max, got 'median'"):
        check_reduction('median')
