"""What a training step asks of a GPU, counted without one: kernels, waits of the host, and no mixing of devices."""

import pytest
import torch
from counted_step import ENCODER, counted_step, demo_batch, demo_model, on_device
from pretended_cuda import DEVICE, CudaTensor, PretendedCuda, to_cuda
from recorded_heads import no_gt

from bevfusion_plugin.ops.mmcv_ops.extension import takes_our_operators

# What is reached, at the demo's size with one sample. Lower them when a change does; a change that raises one has to say why.
MOST_LAUNCHES = 2225  # of the whole step
MOST_FORWARD_LAUNCHES = 890  # outside the sparse encoder, which makes about 1,280 at full size, where Swin is deeper: the goal is 1,300
MOST_WAITS = 7  # of the whole step
MOST_WAITS_OUTSIDE = 2  # outside the sparse encoder: 1 of the voxels, 1 of the targets
MOST_COPIES = 4  # to the device, for which the host waits as well

COUNTED_WITH = '2.13.'  # other releases of torch split some operators otherwise

step = pytest.mark.skipif(
    not takes_our_operators() or not hasattr(torch, 'get_autocast_dtype'),
    reason='needs mmcv-lite, because compiled operators take no pretended tensors, and float16 of torch >= 2.4',
)


@pytest.fixture
def cuda():
    with PretendedCuda().pretend() as mode:
        yield mode


@pytest.fixture(scope='module')
def one_sample():
    return counted_step(demo_batch())


@pytest.fixture(scope='module')
def two_samples():
    return counted_step(demo_batch(samples=2))


# The pretended device itself


def test_tensors_of_two_devices_do_not_mix(cuda):
    on_gpu = to_cuda(torch.ones(3))
    assert on_gpu.device == DEVICE and on_gpu.is_cuda and (on_gpu + 1).device == DEVICE
    assert (on_gpu * torch.tensor(2.0)).device == DEVICE  # a single number goes with any device
    with pytest.raises(RuntimeError, match=r'mul .* mixes cuda:0 with the CPU: \[\(3,\)\]'):
        on_gpu * torch.ones(3)
    with pytest.raises(TypeError, match="can't convert cuda:0"):
        on_gpu.numpy()


def test_what_waits_is_counted(cuda):
    values = to_cuda(torch.tensor([1.0, -1.0, 2.0]))
    for question in (
        lambda: values[0].item(),
        lambda: bool(values.sum() > 0),
        lambda: values[values > 0],
        lambda: values.nonzero(),
        values.cpu,
        values.tolist,
        lambda: values.to('cpu'),
        lambda: torch.inverse(values.expand(3, 3).diag().diag()),
    ):
        before = sum(cuda.waits.values())
        question()
        assert sum(cuda.waits.values()) == before + 1
    assert not cuda.copies


def test_copies_to_the_device_that_wait_are_counted(cuda):
    torch.ones(3).to(DEVICE, non_blocking=True)
    assert not cuda.copies
    values = torch.ones(3).to(DEVICE)
    values.new_tensor([1.0])
    values[torch.tensor([0, 2])]
    torch.tensor([2.0], device=values.device)
    assert isinstance(values, CudaTensor) and sum(cuda.copies.values()) == 4


def test_views_launch_nothing_and_gradients_come_back_to_the_device(cuda):
    values = to_cuda(torch.ones(2, 3)).requires_grad_()
    values.view(3, 2).transpose(0, 1)[0]
    assert not cuda.launches
    (2 * values).sum().backward()
    assert isinstance(values.grad, CudaTensor) and torch.equal(values.grad.plain, torch.full((2, 3), 2.0))


# A training step on it


@step
def test_every_parameter_gets_a_finite_gradient_on_its_device(one_sample):
    for name, parameter in one_sample.model.named_parameters():
        if parameter.requires_grad:
            assert isinstance(parameter.grad, CudaTensor) and parameter.grad.plain.isfinite().all(), name


@step
@pytest.mark.skipif(not torch.__version__.startswith(COUNTED_WITH), reason=f'counted with torch {COUNTED_WITH}')
def test_a_step_launches_and_waits_no_more_often_than_it_did(one_sample):
    assert one_sample.waits() <= MOST_WAITS
    assert one_sample.waits(ENCODER) <= MOST_WAITS_OUTSIDE
    assert one_sample.cuda.copies.total() <= MOST_COPIES
    assert one_sample.cuda.launches.total() <= MOST_LAUNCHES
    assert one_sample.forward_launches <= MOST_FORWARD_LAUNCHES


@step
def test_two_samples_wait_no_more_often_than_one(one_sample, two_samples):
    assert two_samples.waits() <= one_sample.waits()


def without_boxes(batch):
    batch['data_samples'][0].gt_instances_3d = no_gt()


def without_any_boxes(batch):
    for sample in batch['data_samples']:
        sample.gt_instances_3d = no_gt()


def without_points(batch):
    batch['points'][1] = batch['points'][1][:0]


def with_nan_points(batch):
    batch['points'][0][::7, :3] = torch.nan


@step
@pytest.mark.parametrize('change', [without_boxes, without_any_boxes, without_points, with_nan_points])
def test_a_batch_out_of_the_ordinary_gives_finite_losses_and_gradients(change, two_samples):
    batch = demo_batch(samples=2, share=0.01)
    change(batch)
    result = counted_step(batch)
    assert all(value.plain.isfinite() for value in result.losses.values())
    assert all(p.grad.plain.isfinite().all() for p in result.model.parameters() if p.grad is not None)
    assert result.waits() <= two_samples.waits()


@step
def test_one_camera_is_enough():
    result = counted_step(demo_batch(cameras=1, share=0.01))
    assert all(value.plain.isfinite() for value in result.losses.values())


@step
@pytest.mark.parametrize('points', [None, 0], ids=['points', 'no points'])
def test_prediction_gives_boxes_on_the_device(cuda, points):
    model = to_cuda(demo_model().eval())
    batch = demo_batch(samples=2, share=0.01)
    batch['points'] = [sample[:points] for sample in batch['points']]
    inputs, samples = on_device(batch)
    with torch.no_grad(), torch.autocast('cuda', dtype=torch.float16):
        detections = [sample.pred_instances_3d for sample in model.predict(inputs, samples)]
    assert [isinstance(found.bboxes_3d.tensor, CudaTensor) for found in detections] == [True, True]
    assert all(found.scores_3d.plain.isfinite().all() for found in detections)
