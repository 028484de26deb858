import pytest
import torch
from goldens import assert_close, load_golden
from waits_of_the_host import WaitsOfTheHost

from bevfusion_plugin.ops import dynamic_voxelize, grid_size, hard_voxelize, hard_voxelize_batch, mean_voxels, mean_voxels_batch

RANGE = [-4.0, -4.0, -4.0, 4.0, 4.0, 4.0]


def random_cloud(n: int = 500) -> torch.Tensor:
    return torch.cat([torch.randn(n, 3) * 2.5, torch.rand(n, 2)], dim=1)


def voxelize_point_by_point(points, voxel_size, point_cloud_range, max_num_points, max_voxels):
    """The slow obvious version."""
    number, stored = {}, []
    for point, cell in zip(points, dynamic_voxelize(points, voxel_size, point_cloud_range).tolist()):
        cell = tuple(cell)
        if cell[0] < 0 or (cell not in number and len(number) == max_voxels):
            continue
        if cell not in number:
            number[cell] = len(number)
            stored.append([])
        if len(stored[number[cell]]) < max_num_points:
            stored[number[cell]].append(point)
    return list(number), stored


@pytest.mark.parametrize('name', ['voxelization', 'voxelization_cubic'])
@pytest.mark.parametrize('mode', [0, 1])
def test_voxels_equal_the_reference_bit_for_bit(name, mode):
    golden = load_golden(name)
    cfg, prefix = golden.meta['cfg'], ('train', 'eval')[mode]
    args = cfg['voxel_size'], cfg['point_cloud_range'], cfg['max_num_points'], cfg['max_voxels'][mode]
    means = []
    for i, points in enumerate(golden.series('in/points')):
        voxels, coords, counts = hard_voxelize(points, *args)
        for result, key in ((voxels, 'voxels'), (coords, 'coors'), (counts, 'num')):
            expected = golden[f'{prefix}/out/{key}{i}']
            assert result.dtype == expected.dtype and torch.equal(result, expected), key
        mean, mean_coords, mean_counts = mean_voxels(points, *args)
        assert torch.equal(mean_coords, coords) and torch.equal(mean_counts, counts)
        means.append(mean)
    assert_close(torch.cat(means), golden[f'{prefix}/out/batch_feats'], 1e-6, 'mean')


@pytest.mark.parametrize('name', ['voxelization', 'voxelization_cubic'])
def test_dynamic_coordinates_equal_the_reference(name):
    golden = load_golden(name)
    cfg = golden.meta['cfg']
    assert grid_size(cfg['voxel_size'], cfg['point_cloud_range']) == tuple(golden.meta['grid_size'])
    for i, points in enumerate(golden.series('in/points')):
        coords = dynamic_voxelize(points, cfg['voxel_size'], cfg['point_cloud_range'])
        assert torch.equal(coords, golden[f'dynamic/out/coors{i}'])


@pytest.mark.parametrize('max_num_points,max_voxels', [(1, 1000), (3, 40), (50, 7), (2, 1)])
def test_limits_act_as_in_a_loop_over_the_points(max_num_points, max_voxels):
    points = random_cloud()
    before = points.clone()
    args = [1.5, 2.0, 1.0], [-4.0, -4.0, -2.0, 5.0, 4.0, 3.0], max_num_points, max_voxels
    cells, stored = voxelize_point_by_point(points, *args)
    voxels, coords, counts = hard_voxelize(points, *args)
    assert coords.tolist() == [list(cell) for cell in cells]
    assert counts.tolist() == [len(kept) for kept in stored]
    for voxel, kept in zip(voxels, stored):
        assert torch.equal(voxel[: len(kept)], torch.stack(kept)) and not voxel[len(kept) :].any()
    means = mean_voxels(points, *args)[0]
    torch.testing.assert_close(means, torch.stack([torch.stack(kept).mean(0) for kept in stored]))
    assert torch.equal(points, before)


@pytest.mark.parametrize('single,batch', [(mean_voxels, mean_voxels_batch), (hard_voxelize, hard_voxelize_batch)])
def test_a_batch_holds_the_voxels_of_its_samples_one_after_the_other(single, batch):
    samples = [random_cloud(), torch.zeros(0, 5), random_cloud(300), torch.full((3, 5), 100.0), random_cloud(40)]
    args = [1.5, 2.0, 1.0], [-4.0, -4.0, -2.0, 5.0, 4.0, 3.0], 3, 40
    values, coords, counts = batch(samples, *args)
    expected = [single(sample, *args) for sample in samples]
    assert torch.equal(values, torch.cat([value for value, _, _ in expected]))
    assert torch.equal(coords[:, 1:], torch.cat([coord for _, coord, _ in expected])) and coords.dtype == torch.int32
    assert torch.equal(counts, torch.cat([count for _, _, count in expected]))
    assert coords[:, 0].bincount().tolist() == [40, 0, 40, 0, len(expected[4][1])]


def test_a_grid_with_more_cells_than_int32_counts_gives_the_same_voxels():
    points, tall = random_cloud(), [*RANGE[:2], -4e6, *RANGE[3:5], 4e6]
    points[:, 2] = 2.0 * torch.randint(-3, 3, (500,)) + 1  # exact in float32, 4000 km above the lower border too
    expected = mean_voxels(points, [0.25, 0.25, 8.0], [*RANGE[:2], -8.0, *RANGE[3:5], 8.0], 3, 400)
    assert grid_size([0.25, 0.25, 8.0], tall) == (32, 32, 10**6) and 4 * 32 * 32 * 10**6 > 2**31
    means, coords, counts = mean_voxels_batch([points[:0], points[:0], points[:0], points], [0.25, 0.25, 8.0], tall, 3, 400)
    assert torch.equal(means, expected[0]) and torch.equal(counts, expected[2])
    assert torch.equal(coords[:, 1:], expected[1] + torch.tensor([0, 0, 499_999], dtype=torch.int32))


@pytest.mark.parametrize('batch', [1, 3])
def test_the_host_waits_once_a_batch(batch):
    samples = [random_cloud() for _ in range(batch)]
    with WaitsOfTheHost() as waits:
        mean_voxels_batch(samples, [0.3, 0.3, 0.3], RANGE, 3, 40)
        assert waits.names == ['tolist']
        hard_voxelize_batch(samples, [0.3, 0.3, 0.3], RANGE, 3, 40)
    assert waits.names == ['tolist', 'tolist']


def test_points_of_a_known_voxel_are_taken_after_the_voxel_limit():
    points = torch.tensor([[0.1, 0.0, 0.0], [3.0, 0.0, 0.0], [0.3, 0.0, 0.0]])
    means, coords, counts = mean_voxels(points, [1.0, 1.0, 1.0], RANGE, 10, 1)
    assert coords.tolist() == [[4, 4, 4]] and counts.tolist() == [2]
    torch.testing.assert_close(means, torch.tensor([[0.2, 0.0, 0.0]]))


def test_lower_border_is_inside_and_upper_border_outside():
    points = torch.tensor([[-4.0, -4.0, -4.0], [4.0, 0.0, 0.0], [0.0, 0.0, 4.0], [3.999, 3.999, 3.999], [-4.0001, 0.0, 0.0]])
    coords = dynamic_voxelize(points, [0.5, 0.5, 0.5], RANGE)
    assert coords.tolist() == [[0, 0, 0], [-1] * 3, [-1] * 3, [15, 15, 15], [-1] * 3]


def test_points_that_are_not_finite_lie_in_no_voxel():
    points = torch.zeros(5, 4)
    points[:4, 0] = torch.tensor([float('nan'), float('inf'), float('-inf'), 1e30])
    means, coords, counts = mean_voxels(points, [1.0, 1.0, 1.0], RANGE, 10, 10)
    assert coords.tolist() == [[4, 4, 4]] and counts.tolist() == [1] and torch.isfinite(means).all()


@pytest.mark.parametrize('points', [torch.zeros(0, 5), torch.full((3, 5), 100.0)], ids=['none', 'none inside'])
def test_no_point_gives_empty_tensors(points):
    voxels, coords, counts = hard_voxelize(points, [1.0, 1.0, 1.0], RANGE, 10, 10)
    assert voxels.shape == (0, 10, 5) and coords.shape == (0, 3) and counts.shape == (0,)
    means, coords, counts = mean_voxels(points, [1.0, 1.0, 1.0], RANGE, 10, 10)
    assert means.shape == (0, 5) and coords.dtype == counts.dtype == torch.int32


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_autocast_changes_nothing(dtype):
    points = random_cloud().to(dtype)
    expected = mean_voxels(points, [0.3, 0.3, 0.3], RANGE, 5, 1000)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        result = mean_voxels(points, [0.3, 0.3, 0.3], RANGE, 5, 1000)
    assert result[0].dtype == dtype
    assert all(torch.equal(a, b) for a, b in zip(result, expected))


def test_mean_of_half_precision_points_is_float32():
    points = random_cloud().half()
    assert mean_voxels(points, [1.0, 1.0, 1.0], RANGE, 5, 100)[0].dtype == torch.float32


@pytest.mark.parametrize('limits', [(0, 10), (10, 0), (-1, 10)])
def test_limits_below_one_are_refused(limits):
    with pytest.raises(ValueError, match='must be >= 1, got'):
        hard_voxelize(random_cloud(), [1.0, 1.0, 1.0], RANGE, *limits)


@pytest.mark.parametrize(
    'voxel_size,point_cloud_range', [([1.0, 1.0], RANGE), ([1.0, 0.0, 1.0], RANGE), ([1.0, 1.0, 1.0], [4.0, 4.0, 4.0, -4.0, -4.0, -4.0])]
)
def test_a_range_that_makes_no_grid_is_refused(voxel_size, point_cloud_range):
    with pytest.raises(ValueError, match='voxel_size'):
        grid_size(voxel_size, point_cloud_range)
