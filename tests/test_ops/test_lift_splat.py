import pytest
import torch
from goldens import assert_close, load_golden
from waits_of_the_host import WaitsOfTheHost

from bevfusion_plugin.ops import bev_pool, bev_pool_lift, flatten_cells

GRID = (4, 3, 2)  # nx, ny, nz


def frustum(b=2, n=2, d=5, f_h=2, f_w=3, c=4, dtype=torch.float64):
    """Random depth, context and cells (x, y, z), some of them outside the grid."""
    depth = torch.rand(b, n, d, f_h, f_w, dtype=dtype).softmax(dim=2)
    context = torch.randn(b, n, c, f_h, f_w, dtype=dtype)
    cells = torch.randint(-1, 5, (b, n, d, f_h, f_w, 3))
    return depth, context, cells


def lift_point_by_point(depth, context, cells, grid):
    """The slow obvious version: the outer product, added up in a loop."""
    b, n, d, f_h, f_w = depth.shape
    out = depth.new_zeros(b, context.shape[2], grid[2], grid[0], grid[1])
    for i in torch.cartesian_prod(*[torch.arange(size) for size in depth.shape]).tolist():
        x, y, z = cells[tuple(i)].tolist()
        if 0 <= x < grid[0] and 0 <= y < grid[1] and 0 <= z < grid[2]:
            out[i[0], :, z, x, y] += depth[tuple(i)] * context[i[0], i[1], :, i[3], i[4]]
    return out


def test_sums_and_gradient_equal_the_reference():
    golden = load_golden('bev_pool')
    meta = golden.meta
    x = golden['in/x'].requires_grad_()
    pooled = bev_pool(x, golden['in/coords'], meta['B'], (meta['nx'], meta['ny'], meta['nz']))
    assert_close(pooled, golden['out/pooled'], 1e-6, 'pooled')
    assert_close(pooled, golden['out/pooled_quickcumsum_fp64'], 1e-6, 'pooled')
    (pooled * golden['cot/pooled']).sum().backward()
    assert_close(x.grad, golden['gin/x'], 1e-6, 'gradient')


def test_flat_cells_count_y_fastest_then_x_then_z():
    cells = torch.tensor([[0, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 1], [3, 2, 1]])
    assert flatten_cells(cells, GRID).tolist() == [0, 1, 3, 12, 23]


@pytest.mark.parametrize('cell', [[-1, 0, 0], [4, 0, 0], [0, 3, 0], [0, -1, 0], [0, 0, 2], [0, 0, -1]])
def test_a_cell_outside_the_grid_is_minus_one(cell):
    assert flatten_cells(torch.tensor(cell), GRID) == -1


def test_lift_equals_the_outer_product_summed_point_by_point():
    depth, context, cells = frustum()
    pooled = bev_pool_lift(depth, context, flatten_cells(cells, GRID), GRID)
    torch.testing.assert_close(pooled, lift_point_by_point(depth, context, cells, GRID))
    assert pooled.shape == (2, 4, 2, 4, 3) and pooled.abs().sum() > 0


def test_lift_equals_bev_pool_of_the_outer_product_with_gradients():
    depth, context, cells = (t.requires_grad_() if t.is_floating_point() else t for t in frustum())
    flat = flatten_cells(cells, GRID)
    points = (depth[:, :, None] * context[:, :, :, None]).permute(0, 1, 3, 4, 5, 2)  # (B, N, D, fH, fW, C)
    sample = torch.arange(2).view(2, 1, 1, 1, 1).expand_as(flat)
    coords = torch.cat([cells, sample[..., None]], dim=-1)
    expected = bev_pool(points[flat >= 0], coords[flat >= 0], 2, GRID)
    pooled = bev_pool_lift(depth, context, flat, GRID)
    torch.testing.assert_close(pooled, expected)
    cotangent = torch.randn_like(expected)
    for result, reference in zip(
        torch.autograd.grad(pooled, (depth, context), cotangent), torch.autograd.grad(expected, (depth, context), cotangent)
    ):
        torch.testing.assert_close(result, reference)


def test_gradients_are_right_numerically():
    depth, context, cells = frustum(b=1, d=3)
    flat = flatten_cells(cells, GRID)
    args = depth.requires_grad_(), context.requires_grad_()
    assert torch.autograd.gradcheck(lambda d, c: bev_pool_lift(d, c, flat, GRID), args)
    x, coords = torch.randn(6, 2, dtype=torch.float64, requires_grad=True), torch.zeros(6, 4, dtype=torch.int32)
    coords[3:, 0] = 1
    assert torch.autograd.gradcheck(lambda x: bev_pool(x, coords, 1, GRID), (x,))


def test_no_point_in_the_grid_gives_zeros_and_zero_gradients():
    depth, context, cells = frustum()
    depth, context = depth.requires_grad_(), context.requires_grad_()
    pooled = bev_pool_lift(depth, context, torch.full(depth.shape, -1), GRID)
    assert not pooled.any()
    pooled.sum().backward()
    assert not depth.grad.any() and not context.grad.any()
    x = torch.zeros(0, 3, requires_grad=True)
    pooled = bev_pool(x, torch.zeros(0, 4, dtype=torch.int32), 2, GRID)
    assert pooled.shape == (2, 3, 2, 4, 3) and not pooled.any()
    pooled.sum().backward()


def test_a_dropped_point_cannot_reach_the_grid():
    depth, context, cells = frustum()
    flat = flatten_cells(cells, GRID)
    expected = bev_pool_lift(depth, context, flat, GRID)
    depth[flat < 0] = float('inf')
    leaves = depth.requires_grad_(), context.requires_grad_()
    pooled = bev_pool_lift(*leaves, flat, GRID)
    assert torch.equal(pooled, expected)
    grad_depth, grad_context = torch.autograd.grad(pooled.sum(), leaves)
    assert grad_context.isfinite().all() and not grad_depth[flat < 0].any()


def test_the_host_does_not_wait_for_the_number_of_points_in_the_grid():
    depth, context, cells = frustum()
    with WaitsOfTheHost() as waits:
        flat = flatten_cells(cells, GRID)
        bev_pool_lift(depth.requires_grad_(), context.requires_grad_(), flat, GRID).sum().backward()
    assert waits.names == []


def test_points_of_a_cell_are_summed_in_their_order():
    # In float32 a sum of these depends on its order.
    context = torch.tensor([1e8, 1.0, -1e8, 1.0]).view(1, 1, 1, 1, 4)
    pooled = bev_pool_lift(torch.ones(1, 1, 1, 1, 4), context, torch.full((1, 1, 1, 1, 4), 5), GRID)
    assert pooled.flatten()[5] == 1 and pooled.sum() == 1


def test_low_precision_inputs_and_autocast_sum_in_float32():
    depth, context, cells = frustum(dtype=torch.float32)
    flat = flatten_cells(cells, GRID)
    expected = bev_pool_lift(depth, context, flat, GRID)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        leaf = context.clone().requires_grad_()
        pooled = bev_pool_lift(depth, leaf, flat, GRID)
        pooled.sum().backward()
    assert pooled.dtype == torch.float32 and torch.equal(pooled, expected)
    low = context.bfloat16().requires_grad_()
    pooled = bev_pool_lift(depth.bfloat16(), low, flat, GRID)
    pooled.sum().backward()
    assert pooled.dtype == torch.float32 and low.grad.dtype == torch.bfloat16
    assert_close(pooled, expected, 2e-2)
    assert_close(low.grad, leaf.grad, 2e-2)


def test_inputs_stay_as_they_are():
    depth, context, cells = frustum()
    before = depth.clone(), context.clone(), cells.clone()
    flat = flatten_cells(cells, GRID)
    flat_before = flat.clone()
    bev_pool_lift(depth.requires_grad_(), context.requires_grad_(), flat, GRID).sum().backward()
    assert all(torch.equal(a, b) for a, b in zip((depth, context, cells), before)) and torch.equal(flat, flat_before)


@pytest.mark.parametrize('coords', [[4, 0, 0, 0], [0, 0, 0, 2], [0, -1, 0, 0]])
def test_points_outside_the_grid_or_batch_are_refused(coords):
    with pytest.raises(ValueError, match='inside the grid'):
        bev_pool(torch.ones(1, 2), torch.tensor([coords]), 2, GRID)


def test_shapes_that_do_not_fit_are_refused():
    depth, context, cells = frustum()
    with pytest.raises(ValueError, match='expected cells'):
        bev_pool_lift(depth, context[..., :2], flatten_cells(cells, GRID), GRID)
    with pytest.raises(ValueError, match='expected cells'):
        bev_pool_lift(depth, context, cells, GRID)
