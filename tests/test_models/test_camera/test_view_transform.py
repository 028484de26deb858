import pytest
import torch
from goldens import assert_close, load_golden
from module_goldens import FORWARD, GRADIENT, check_parameters

from bevfusion_plugin.models.camera import view_transform
from bevfusion_plugin.models.camera.frustum import frustum_to_lidar, grid_from_bounds, lidar_depth_maps, points_to_cells
from bevfusion_plugin.models.camera.view_matrices import ViewMatrices, view_geometry
from bevfusion_plugin.models.camera.view_transform import DepthLSSTransform, LSSTransform
from bevfusion_plugin.ops.lift_splat import bev_pool_lift

CASES = ['lss_ds2', 'depth_lss_ds2', 'depth_lss_ds1_multi_z_nonsquare']
MATRICES = ('lidar2image', 'camera_intrinsics', 'camera2lidar', 'img_aug_matrix', 'lidar_aug_matrix')
SMALL = dict(
    in_channels=4,
    out_channels=3,
    image_size=(16, 24),
    feature_size=(2, 3),
    xbound=[-4.0, 4.0, 1.0],
    ybound=[-3.0, 3.0, 1.0],
    zbound=[-10.0, 10.0, 20.0],
    dbound=[1.0, 5.0, 1.0],
)


def build(case):
    golden = load_golden(case)
    cfg = dict(golden.meta['cfg'])
    module = {'LSSTransform': LSSTransform, 'DepthLSSTransform': DepthLSSTransform}[cfg.pop('type')](**cfg)
    module.load_state_dict(golden.group('sd/'), strict=True)
    return golden, module


def scene(batch=1, cameras=2, module=None, **changes):
    """Images, points and matrices of a camera that looks along +x from the origin."""
    look = torch.tensor([[0.0, 0.0, 1.0, 0.0], [-1.0, 0.0, 0.0, 0.0], [0.0, -1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]])  # cam2lidar
    intrinsics = torch.tensor([[12.0, 0.0, 12.0, 0.0], [0.0, 12.0, 8.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    eye = torch.eye(4)
    args = dict(
        img=torch.rand(batch, cameras, 4, 2, 3),
        points=[torch.rand(50, 5) * 4 for _ in range(batch)],
        lidar2image=(intrinsics @ look.inverse()).expand(batch, cameras, 4, 4),
        camera_intrinsics=intrinsics.expand(batch, cameras, 4, 4),
        camera2lidar=look.expand(batch, cameras, 4, 4),
        img_aug_matrix=eye.expand(batch, cameras, 4, 4),
        lidar_aug_matrix=eye.expand(batch, 4, 4),
    )
    return {**args, **changes}


def geometry_of(matrix):
    """Geometry on the CPU of the matrices that ``matrix`` gives by name."""
    return view_geometry(ViewMatrices(*(matrix(name) for name in MATRICES)), torch.device('cpu'))


@pytest.mark.parametrize('mode', ['eval', 'train'])
@pytest.mark.parametrize('case', CASES)
def test_view_transform_equals_the_reference(case, mode):
    golden, module = build(case)
    # BatchNorm takes the scale of dtransform's first convolution away: with batch statistics the gradient of its weight is what
    # remains of terms up to 4000 times as large, of which float32 keeps three or four digits.
    dtype = torch.float64 if mode == 'train' else torch.float32
    module.to(dtype).train(mode == 'train')
    img = golden['in/img'].to(dtype).requires_grad_()
    points = golden.series('in/points')
    before = [p.clone() for p in points]
    bev = module(img, points, *(golden[f'in/{name}'] for name in MATRICES), None)
    assert_close(bev, golden[f'{mode}/out/bev'], FORWARD, 'bev')
    (bev * golden['cot/bev']).sum().backward()
    assert_close(img.grad, golden[f'{mode}/gin/img'], GRADIENT, 'gin/img')
    check_parameters(module, golden, mode)
    assert all(torch.equal(a, b) for a, b in zip(points, before)), 'the caller\'s points were changed'


@pytest.mark.parametrize('case', CASES)
def test_every_frustum_point_falls_into_the_recorded_cell(case):
    golden, module = build(case)
    points = frustum_to_lidar(module.frustum, geometry_of(lambda name: golden[f'in/{name}']))
    assert_close(points, golden['out/geom'], 1e-6, 'geom')
    recorded = golden['out/cells'].long()
    nx = module.nx
    wanted = (recorded[..., 2] * nx[0] + recorded[..., 0]) * nx[1] + recorded[..., 1]
    wanted[(recorded < 0).any(-1)] = -1
    assert torch.equal(points_to_cells(points, module.dx, module.bx, module.grid), wanted)


@pytest.mark.parametrize('case', CASES[1:])
def test_depth_maps_equal_the_reference(case):
    golden, module = build(case)
    maps = lidar_depth_maps(golden.series('in/points'), geometry_of(lambda name: golden[f'in/{name}']), module.image_size)
    assert torch.equal(maps > 0, golden['out/depth'] > 0)
    assert_close(maps, golden['out/depth'], 1e-6, 'depth')


def test_number_of_cells_is_the_truncated_quotient():
    dx, bx, nx = grid_from_bounds([-3.3, 3.3, 0.1], [-54.0, 54.0, 0.3], [-10.0, 10.0, 20.0])
    assert nx.tolist() == [65, 360, 1] and nx.dtype == torch.int64
    assert dx.tolist() == pytest.approx([0.1, 0.3, 20.0]) and bx.tolist() == pytest.approx([-3.25, -53.85, 0.0])


def test_cells_are_truncated_toward_zero_and_outside_is_dropped():
    dx, bx, nx = grid_from_bounds([0.0, 4.0, 1.0], [0.0, 3.0, 1.0], [0.0, 2.0, 1.0])
    points = torch.tensor([[-0.9, 0.5, 0.5], [-1.1, 0.5, 0.5], [3.9, 2.9, 1.9], [4.0, 0.5, 0.5]])
    assert points_to_cells(points, dx, bx, tuple(nx.tolist())).tolist() == [0, -1, (1 * 4 + 3) * 3 + 2, -1]


def test_last_point_of_a_pixel_wins():
    points = torch.tensor([[2.0, 0.0, 0.0], [4.0, 0.0, 0.0], [3.0, 0.0, 0.0]])
    maps = lidar_depth_maps([points], geometry_of(scene().get), (16, 24))
    assert maps.shape == (1, 2, 1, 16, 24)
    assert maps[0, 0, 0, 8, 12] == 3.0 and (maps[0, 0] > 0).sum() == 1


def test_points_behind_the_camera_leave_no_depth():
    maps = lidar_depth_maps([torch.tensor([[-2.0, 0.1, 0.1]])], geometry_of(scene().get), (16, 24))
    assert not maps.any()


@pytest.mark.parametrize('points', [[torch.zeros(0, 5)], [torch.full((3, 5), float('nan'))]], ids=['none', 'nan'])
def test_a_sample_without_usable_points_works(points):
    bev = DepthLSSTransform(**SMALL)(**scene(points=points))
    assert bev.shape == (1, 3, 8, 6) and bev.isfinite().all()


def test_nothing_in_the_grid_gives_zeros_and_zero_gradients():
    away = torch.eye(4)
    away[0, 3] = 1000.0
    args = scene(camera2lidar=away.expand(1, 2, 4, 4))
    args['img'].requires_grad_()
    bev = LSSTransform(**SMALL)(**args)
    assert bev.shape == (1, 3, 8, 6) and not bev.any()
    bev.sum().backward()
    assert not args['img'].grad.any()


@pytest.mark.parametrize('case', CASES)
def test_bfloat16_changes_the_map_by_its_rounding_and_moves_no_point(case, monkeypatch):
    golden, module = build(case)
    pooled = []

    def kept(*args):
        pooled.append((*args, bev_pool_lift(*args)))
        return pooled[-1][-1]

    monkeypatch.setattr(view_transform, 'bev_pool_lift', kept)
    args = [golden['in/img'], golden.series('in/points'), *(golden[f'in/{name}'] for name in MATRICES)]
    expected = build(case)[1].eval()(*args)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        actual = module.eval()(*args)
    (_, _, wanted_cells, *_), (depth, context, cells, *_, sums) = pooled
    assert torch.equal(cells, wanted_cells)  # half precision would put points into other cells
    assert context.dtype == torch.bfloat16 and depth.dtype == sums.dtype == torch.float32
    assert_close(actual.float(), expected, 0.03, 'bev')  # bfloat16 rounds by 0.004, up to nine layers behind each other; measured 0.015


@pytest.fixture
def views(monkeypatch):
    """The samples of each batch for which a view was computed."""
    found, whole = [], LSSTransform.new_view

    def counted(module, matrices, device):
        found.append(len(matrices.lidar2image))
        return whole(module, matrices, device)

    monkeypatch.setattr(LSSTransform, 'new_view', counted)
    return found


def test_a_test_with_the_same_matrices_computes_their_view_once(views):
    module, args = LSSTransform(**SMALL).eval(), scene()
    with torch.inference_mode():
        first = module(**args)
        assert torch.equal(module(**args), first)
    assert views == [1]
    module(**args).sum().backward()  # what an inference kept serves a backward pass
    assert views == [1] and module.depthnet.weight.grad.any()


def moved(matrix):
    return matrix + torch.tensor([0.0, 0.0, 0.0, 1.0]) * torch.tensor([1.0, 0.0, 0.0, 0.0])[:, None]  # a metre along x


def test_other_matrices_have_another_view(views):
    module, args = LSSTransform(**SMALL).eval(), scene()
    other = scene(img=args['img'], camera2lidar=moved(args['camera2lidar']))
    first, second = module(**args), module(**other)
    fresh = LSSTransform(**SMALL).eval()
    fresh.load_state_dict(module.state_dict())
    assert torch.equal(second, fresh(**other)) and not torch.equal(first, second)
    assert torch.equal(module(**args), first) and views == [1, 1, 1, 1]


def test_matrices_written_anew_in_place_have_another_view(views):
    module, args = LSSTransform(**SMALL).eval(), scene()
    args['camera2lidar'] = args['camera2lidar'].clone()
    module(**args)
    args['camera2lidar'][..., 0, 3] += 1
    module(**args)
    assert views == [1, 1]


def test_a_checkpoint_loaded_between_has_another_view(views):
    module, args = LSSTransform(**SMALL).eval(), scene()
    first = module(**args)
    state = module.state_dict()
    module.load_state_dict({**state, 'frustum': state['frustum'] * 2})
    assert not torch.equal(module(**args), first) and views == [1, 1]


def test_a_training_step_keeps_nothing(views):
    module, args = LSSTransform(**SMALL), scene()
    module(**args)
    module(**args)
    assert views == [1, 1] and module._kept is None


def test_depth_maps_of_samples_with_unequal_points_equal_those_of_each_alone():
    points = [torch.rand(count, 5) * 4 for count in (50, 0, 7)]
    args = scene(batch=3)
    maps = lidar_depth_maps(points, geometry_of(args.get), (16, 24))
    for sample in range(3):
        alone = geometry_of(lambda name: args[name][sample : sample + 1])
        assert torch.equal(maps[sample : sample + 1], lidar_depth_maps(points[sample : sample + 1], alone, (16, 24)))
    assert maps[0].any() and not maps[1].any()


@pytest.mark.parametrize(
    'changes, message',
    [
        (dict(downsample=3), 'downsample must be 1 or 2, got 3'),
        (dict(downsample=2, zbound=[-1.0, 1.0, 1.0]), 'needs a grid of one cell in z'),
        (dict(xbound=[4.0, -4.0, 1.0]), 'lower < upper'),
        (dict(feature_size=(4, 6)), 'feature_size must be image_size / 8'),
    ],
)
def test_unusable_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        DepthLSSTransform(**{**SMALL, **changes})


def test_features_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r'expected image features \(B, N, 4, 2, 3\)'):
        LSSTransform(**SMALL)(**scene(img=torch.rand(1, 2, 4, 3, 3)))


def test_missing_depth_maps_are_named():
    with pytest.raises(TypeError, match='needs depth maps, got None'):
        DepthLSSTransform(**SMALL).depth_and_context(torch.zeros(1, 1, 4, 2, 2), None)
