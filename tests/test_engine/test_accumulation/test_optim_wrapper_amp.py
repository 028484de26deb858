import copy
import math

import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.structures import BaseDataElement
from torch import nn
from toy_training import FEATURES, ToyData, ToyModel, batch_norm_net, layer_norm_net, linear_net, toy_runner

from bevfusion_plugin.engine.accumulation.optim_wrapper import AccumulativeAmpOptimWrapper

NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA GPU')


def build(model, **kwargs):
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    return AccumulativeAmpOptimWrapper(optimizer, **{'dtype': 'float32', **kwargs})


def micro_batch(value=1.):
    return torch.full((2, FEATURES), value), torch.ones(2, 1)


def train(model, wrapper, values, on_iteration=lambda i: None):
    wrapper.initialize_count_status(model, 0, len(values))
    for i, value in enumerate(values):
        with wrapper.optim_context(model):
            losses = model(*micro_batch(value))
        wrapper.update_params(losses['loss_fit'])
        on_iteration(i)


@pytest.mark.parametrize('dtype, expected', [('float16', torch.float16), ('bfloat16', torch.bfloat16),
                                             ('float32', torch.float32), (None, torch.bfloat16)])
def test_forward_runs_in_the_dtype_and_float16_alone_has_a_scaler(dtype, expected):
    model = ToyModel(linear_net, torch.float32)
    wrapper = build(model, dtype=dtype)
    with wrapper.optim_context(model):
        assert model.net(torch.ones(1, FEATURES)).dtype is expected
    assert (wrapper.loss_scaler is not None) == (dtype == 'float16')
    assert ('loss_scaler' in wrapper.state_dict()) == (dtype == 'float16')


def test_float32_leaves_a_float64_model_in_float64():
    model = ToyModel(linear_net)
    with build(model).optim_context(model):
        assert model.net(torch.ones(1, FEATURES, dtype=torch.float64)).dtype is torch.float64


@pytest.mark.parametrize('loss_scale, scale', [('dynamic', 65536.), (8, 8.), (0.5, 0.5), (dict(init_scale=32.), 32.)])
def test_the_loss_scale_may_be_an_int_a_float_dynamic_or_a_dict(loss_scale, scale):
    assert build(ToyModel(), dtype='float16', loss_scale=loss_scale).scale == scale


@pytest.mark.parametrize('own, saved', [(True, False), (False, True)])
def test_a_resumed_optimizer_keeps_its_own_implementation(own, saved):
    first, second = (AccumulativeAmpOptimWrapper(torch.optim.AdamW(linear_net().parameters(), lr=0.1, fused=fused), dtype='float16')
                     for fused in (saved, own))
    second.load_state_dict(first.state_dict())
    assert second.optimizer.param_groups[0]['fused'] is own


def test_a_static_scale_stays_and_a_dict_is_dynamic():
    model = ToyModel(linear_net, torch.float32)
    for loss_scale, after in ((8, 8.), (dict(init_scale=8., growth_interval=1), 16.)):
        wrapper = build(model, dtype='float16', loss_scale=loss_scale)
        train(model, wrapper, [1.])
        assert wrapper.scale == after


@pytest.mark.parametrize('scale', [1., 1024.])
def test_the_reported_norm_and_the_gradient_do_not_depend_on_the_loss_scale(scale):
    model = ToyModel(layer_norm_net, torch.float32)
    reference = copy.deepcopy(model)
    wrapper, plain = (build(m, accumulative_counts=2, clip_grad=dict(max_norm=0.1), **kwargs)
                      for m, kwargs in ((model, dict(dtype='float16', loss_scale=scale)), (reference, {})))
    values = [0.5, 1.5]
    for m, w in ((model, wrapper), (reference, plain)):
        w.cast_dtype = torch.float32  # compare arithmetic, not float16's rounding
        train(m, w, values)
    assert wrapper.grad_norm == pytest.approx(plain.grad_norm, rel=1e-6)
    for ours, theirs in zip(model.parameters(), reference.parameters()):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16', 'float32'])
def test_the_toy_model_learns_in_every_dtype_through_a_stock_runner(dtype, tmp_path):
    runner = toy_runner(tmp_path, ToyModel(layer_norm_net, torch.float32),
                        optim_wrapper=dict(type='bevfusion_plugin.AccumulativeAmpOptimWrapper', dtype=dtype,
                                           accumulative_counts=2, optimizer=dict(type='AdamW', lr=0.03),
                                           clip_grad=dict(max_norm=35, norm_type=2)),
                        train_dataloader=dict(batch_size=2, num_workers=0, dataset=ToyData(dtype=torch.float32),
                                              collate_fn=dict(type='default_collate'),
                                              sampler=dict(type='DefaultSampler', shuffle=False)),
                        train_cfg=dict(by_epoch=True, max_epochs=10))
    runner.train()
    losses = runner.message_hub.get_scalar('train/loss').data[0]
    assert losses[-8:].mean() < 0.5 * losses[:8].mean()
    assert runner.optim_wrapper.updates + runner.optim_wrapper.skipped_updates == 40


@pytest.mark.parametrize('overflow_at', [0, 1])
def test_an_overflow_in_any_micro_batch_skips_the_whole_update(overflow_at):
    model = ToyModel(linear_net, torch.float32)
    wrapper = build(model, accumulative_counts=2, dtype='float16', loss_scale=dict(init_scale=4.))
    before = [p.clone() for p in model.parameters()]
    values = [1.] * 8
    values[overflow_at] = math.inf

    def check(i):
        if i == 1:
            assert not wrapper.update_applied and wrapper.should_update()
            assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before))
            assert not wrapper.optimizer.state
            assert all(p.grad is None for p in model.parameters())
            assert wrapper.scale == 2.

    train(model, wrapper, values, check)
    assert (wrapper.updates, wrapper.skipped_updates) == (3, 1)
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_a_window_is_unscaled_clipped_and_stepped_once(monkeypatch):
    model = ToyModel(layer_norm_net, torch.float32)
    wrapper = build(model, accumulative_counts=4, dtype='float16', loss_scale=8., clip_grad=dict(max_norm=1.))
    calls = []

    def count(owner, name):
        method = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args, **kwargs: calls.append(name) or method(*args, **kwargs))

    for owner, name in ((wrapper.loss_scaler, 'unscale_'), (wrapper, 'clip_func'), (wrapper.optimizer, 'step'),
                        (wrapper.loss_scaler, 'update')):
        count(owner, name)
    train(model, wrapper, [1.] * 8)
    assert calls == ['unscale_', 'clip_func', 'step', 'update'] * 2


def test_the_norm_of_a_skipped_update_is_not_logged():
    model = ToyModel(linear_net, torch.float32)
    wrapper = build(model, dtype='float16', loss_scale=dict(init_scale=4.))
    wrapper.message_hub = MessageHub.get_instance('skipped_norm')
    train(model, wrapper, [math.inf, 1., 1.])
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
            x, y = micro_batch(math.nan if i % 2 else 1.)
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
    train(model, wrapper, [math.nan, 1., math.nan, 1., math.nan])
    assert (wrapper.updates, wrapper.skipped_updates) == (2, 3)


def test_overflows_alone_do_not_stop_float16_training():
    model = ToyModel(linear_net, torch.float32)
    wrapper = build(model, dtype='float16', loss_scale=dict(init_scale=2.**127), max_bad_windows=2)
    train(model, wrapper, [1.] * 20)
    assert wrapper.skipped_updates > 2


def test_a_gradient_that_is_no_number_under_a_finite_loss_stops_too():
    model = ToyModel(linear_net, torch.float32)
    wrapper = build(model, max_bad_windows=1)
    with pytest.raises(FloatingPointError, match='Every loss on this rank is finite'):
        wrapper.update_params((model.net.weight - model.net.weight).square().sum().sqrt())  # 0 * inf in its backward pass


def test_a_mask_of_minus_infinity_is_no_spoiled_statistic():
    model = ToyModel(linear_net, torch.float32)
    model.register_buffer('mask', torch.full((2,), -math.inf))
    wrapper = build(model, dtype='float16', loss_scale=8.)
    train(model, wrapper, [math.inf, 1.])
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
        train(model, wrapper, [1.] * 40)
    assert wrapper.skipped_updates == 17 and wrapper.updates == 0  # 65536 is halved 16 times


def test_a_static_loss_scale_does_not_fall_so_its_overflows_count():
    model = NaNBehindFiniteLoss(linear_net, torch.float32)
    wrapper = build(model, dtype='float16', loss_scale=8., max_bad_windows=3)
    with pytest.raises(FloatingPointError, match='3 windows in a row .*the gradients of net.weight, net.bias'):
        train(model, wrapper, [1.] * 40)


def statistics(model):
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


@pytest.mark.parametrize('bad', [math.nan, math.inf])
@pytest.mark.parametrize('dtype', ['float32', 'float16'])
def test_a_skipped_update_leaves_the_running_statistics_as_they_were(dtype, bad):
    model = ToyModel(batch_norm_net, torch.float32)
    wrapper = build(model, accumulative_counts=2, dtype=dtype, loss_scale=8.)
    seen = []
    train(model, wrapper, [1., 2., 3., bad, 4., 5.], lambda i: seen.append(statistics(model)))
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
        tmp_path, train_cfg=dict(by_epoch=True, max_epochs=3),
        optim_wrapper=dict(type='bevfusion_plugin.AccumulativeAmpOptimWrapper', dtype='float32', max_bad_windows=4,
                           optimizer=dict(type='SGD', lr=0.1)),
        train_dataloader=dict(batch_size=2, num_workers=0, collate_fn=dict(type='default_collate'),
                              dataset=ToyData(marks={i: math.nan for i in range(6, 16)}),
                              sampler=dict(type='DefaultSampler', shuffle=False)),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1, by_epoch=False)))
    with pytest.raises(FloatingPointError, match='iteration 7: loss_fit=nan'):
        runner.train()
    saved = sorted(tmp_path.glob('iter_*.pth'))
    assert len(saved) == 6  # the seventh iteration raised before its checkpoint
    for path in saved:
        assert all(torch.isfinite(value).all() for value in torch.load(path)['state_dict'].values())


def test_openpcdets_new_scaler_every_epoch_is_offered():
    scales = {}
    for reset in (False, True):
        model = ToyModel(linear_net, torch.float32)
        wrapper = build(model, dtype='float16', loss_scale=dict(init_scale=4., growth_interval=1), accumulative_counts=2,
                        reset_scaler_every_epoch=reset)
        wrapper.batches_per_epoch = 4
        scales[reset] = []
        train(model, wrapper, [1.] * 8, lambda i: scales[reset].append(wrapper.scale))
    assert scales[False] == [4., 8., 8., 16., 16., 32., 32., 64.]
    assert scales[True] == [4., 8., 8., 16., 4., 8., 8., 16.]


@pytest.mark.parametrize('length, counts', [(4, 2), (3, 4)])
def test_bn_momentum_is_corrected_on_request_only(length, counts):
    for correction in (False, True):
        model = ToyModel(batch_norm_net)
        momentum = model.net[1].momentum
        wrapper = build(model, accumulative_counts=counts, bn_momentum_correction=correction)
        for _ in range(2):
            wrapper.initialize_count_status(model, 0, length)
        expected = 1 - (1 - momentum)**(1 / counts) if correction else momentum
        assert model.net[1].momentum == pytest.approx(expected, rel=1e-15)


@pytest.mark.gpu
@NEEDS_GPU
@pytest.mark.parametrize('dtype', ['float16', 'bfloat16', 'float32'])
def test_the_toy_model_learns_on_a_gpu(dtype):
    model = ToyModel(nn.Sequential, torch.float32)
    model.net = layer_norm_net()
    model = model.cuda()
    wrapper = build(model, dtype=dtype, accumulative_counts=2, clip_grad=dict(max_norm=35))
    wrapper.initialize_count_status(model, 0, 200)
    losses = []
    for _ in range(200):
        with wrapper.optim_context(model):
            losses.append(model(*(part.cuda() for part in micro_batch()))['loss_fit'])
        wrapper.update_params(losses[-1])
    assert losses[-1] < 0.5 * losses[0]
    assert wrapper.updates + wrapper.skipped_updates == 100
