"""Updates that are left out because the gradient is not finite: what stays as it was, and when training stops."""

import math

import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.structures import BaseDataElement
from toy_training import ToyData, ToyModel, batch_norm_net, linear_net, toy_runner, toy_loader
from wrapped_steps import build, micro_batch, train


@pytest.mark.parametrize('overflow_at', [0, 1])
def test_an_overflow_in_any_micro_batch_skips_the_whole_update(overflow_at):
    model = ToyModel(linear_net, torch.float32)
    wrapper = build(model, accumulative_counts=2, dtype='float16', loss_scale=dict(init_scale=4.0))
    before = [p.clone() for p in model.parameters()]
    values = [1.0] * 8
    values[overflow_at] = math.inf

    def check(i):
        if i == 1:
            assert not wrapper.update_applied and wrapper.should_update()
            assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before))
            assert not wrapper.optimizer.state
            assert all(p.grad is None for p in model.parameters())
            assert wrapper.scale == 2.0

    train(model, wrapper, values, check)
    assert (wrapper.updates, wrapper.skipped_updates) == (3, 1)
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_the_norm_of_a_skipped_update_is_not_logged():
    model = ToyModel(linear_net, torch.float32)
    wrapper = build(model, dtype='float16', loss_scale=dict(init_scale=4.0))
    wrapper.message_hub = MessageHub.get_instance('skipped_norm')
    train(model, wrapper, [math.inf, 1.0, 1.0])
    logged = wrapper.message_hub.get_scalar('train/grad_norm').data[0]
    assert len(logged) == 2 and all(map(math.isfinite, logged))


class SampledModel(ToyModel):
    """A model with data samples and two loss terms, as detectors have them."""

    def forward(self, x, y, data_samples=None, mode='loss'):
        losses = super().forward(x, y, mode)
        return dict(losses, loss_other=[torch.ones(2)])


def data_samples(*tokens):
    return [BaseDataElement(metainfo=dict(token=token)) for token in tokens]


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'float16'])
def test_a_nan_loss_stops_after_max_bad_windows_and_names_term_iteration_and_samples(dtype):
    model = SampledModel(linear_net, torch.float32)
    wrapper = build(model, accumulative_counts=2, dtype=dtype, max_bad_windows=3)
    wrapper.initialize_count_status(model, 0, 100)
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(FloatingPointError) as error:
        for i in range(100):
            x, y = micro_batch(math.nan if i % 2 else 1.0)
            with wrapper.optim_context(model):
                losses = model(x, y, data_samples=data_samples(f'frame{i}a', f'frame{i}b'))
            wrapper.update_params(model.parse_losses(losses)[0])
    assert i == 5 and wrapper.skipped_updates == 3
    for part in ('3 windows in a row', 'iteration 6: loss_fit=nan, samples frame5a, frame5b'):
        assert part in str(error.value)
    assert 'loss_other' not in str(error.value)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before))


def test_a_good_window_starts_the_count_anew():
    model = ToyModel(linear_net, torch.float32)
    wrapper = build(model, max_bad_windows=2)
    train(model, wrapper, [math.nan, 1.0, math.nan, 1.0, math.nan])
    assert (wrapper.updates, wrapper.skipped_updates) == (2, 3)


def test_overflows_alone_do_not_stop_float16_training():
    model = ToyModel(linear_net, torch.float32)
    wrapper = build(model, dtype='float16', loss_scale=dict(init_scale=2.0**127), max_bad_windows=2)
    train(model, wrapper, [1.0] * 20)
    assert wrapper.skipped_updates > 2


def test_a_gradient_that_is_no_number_under_a_finite_loss_stops_too():
    model = ToyModel(linear_net, torch.float32)
    wrapper = build(model, max_bad_windows=1)
    with pytest.raises(FloatingPointError, match='Every loss on this rank is finite'):
        wrapper.update_params((model.net.weight - model.net.weight).square().sum().sqrt())  # 0 * inf in its backward pass


def test_a_mask_of_minus_infinity_is_no_spoiled_statistic():
    model = ToyModel(linear_net, torch.float32)
    model.register_buffer('mask', torch.full((2,), -math.inf))
    wrapper = build(model, dtype='float16', loss_scale=8.0)
    train(model, wrapper, [math.inf, 1.0])
    assert (wrapper.skipped_updates, wrapper.updates) == (1, 1)


class NaNGradient(torch.autograd.Function):
    """Passes values on, and no gradient back that is a number."""

    @staticmethod
    def forward(ctx, values):
        return values.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad * math.nan


class NaNBehindFiniteLoss(ToyModel):
    def forward(self, x, y, mode='loss'):
        return dict(loss_fit=NaNGradient.apply(self.net(x) - y).square().mean())


def test_a_loss_scale_that_cannot_fall_further_stops_and_names_the_parameters():
    model = NaNBehindFiniteLoss(linear_net, torch.float32)
    wrapper = build(model, dtype='float16')
    with pytest.raises(FloatingPointError, match='loss scale has fallen to 1 .*the gradients of net.weight, net.bias'):
        train(model, wrapper, [1.0] * 40)
    assert wrapper.skipped_updates == 17 and wrapper.updates == 0  # 65536 is halved 16 times


def test_a_static_loss_scale_does_not_fall_so_its_overflows_count():
    model = NaNBehindFiniteLoss(linear_net, torch.float32)
    wrapper = build(model, dtype='float16', loss_scale=8.0, max_bad_windows=3)
    with pytest.raises(FloatingPointError, match='3 windows in a row .*the gradients of net.weight, net.bias'):
        train(model, wrapper, [1.0] * 40)


def statistics(model):
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


@pytest.mark.parametrize('bad', [math.nan, math.inf])
@pytest.mark.parametrize('dtype', ['float32', 'float16'])
def test_a_skipped_update_leaves_the_running_statistics_as_they_were(dtype, bad):
    model = ToyModel(batch_norm_net, torch.float32)
    wrapper = build(model, accumulative_counts=2, dtype=dtype, loss_scale=8.0)
    seen = []
    train(model, wrapper, [1.0, 2.0, 3.0, bad, 4.0, 5.0], lambda i: seen.append(statistics(model)))
    assert (wrapper.updates, wrapper.skipped_updates) == (2, 1)
    for name, before in seen[1].items():
        assert torch.equal(seen[3][name], before) and not torch.equal(seen[2][name], before), name
        assert not torch.equal(seen[5][name], before) and seen[5][name].isfinite().all(), 'the next window moves them on'


def test_statistics_that_came_spoiled_stop_the_run():
    model = ToyModel(batch_norm_net, torch.float32)
    model.net[1].running_var[0] = math.nan
    with pytest.raises(FloatingPointError, match=r"running statistics are no numbers.*\['net.1.running_var'\]; resume from another"):
        train(model, build(model), [math.nan])


def test_no_checkpoint_holds_what_a_nan_loss_made(tmp_path):
    runner = toy_runner(
        tmp_path,
        train_cfg=dict(by_epoch=True, max_epochs=3),
        optim_wrapper=dict(
            type='bevfusion_plugin.AccumulativeAmpOptimWrapper', dtype='float32', max_bad_windows=4, optimizer=dict(type='SGD', lr=0.1)
        ),
        train_dataloader=toy_loader(ToyData(marks={i: math.nan for i in range(6, 16)})),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1, by_epoch=False)),
    )
    with pytest.raises(FloatingPointError, match='iteration 7: loss_fit=nan'):
        runner.train()
    saved = sorted(tmp_path.glob('iter_*.pth'))
    assert len(saved) == 6  # the seventh iteration raised before its checkpoint
    for path in saved:
        assert all(torch.isfinite(value).all() for value in torch.load(path)['state_dict'].values())
