import copy

import pytest
import torch
from torch import nn
from toy_training import FEATURES, ToyData, ToyModel, batch_norm_net, layer_norm_net, linear_net, toy_runner, toy_loader
from wrapped_steps import build, micro_batch, train

from bevfusion_plugin.engine.accumulation.optim_wrapper import AccumulativeAmpOptimWrapper

NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA GPU')


@pytest.mark.parametrize(
    'dtype, expected', [('float16', torch.float16), ('bfloat16', torch.bfloat16), ('float32', torch.float32), (None, torch.bfloat16)]
)
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


@pytest.mark.parametrize('loss_scale, scale', [('dynamic', 65536.0), (8, 8.0), (0.5, 0.5), (dict(init_scale=32.0), 32.0)])
def test_the_loss_scale_may_be_an_int_a_float_dynamic_or_a_dict(loss_scale, scale):
    assert build(ToyModel(), dtype='float16', loss_scale=loss_scale).scale == scale


@pytest.mark.parametrize('own, saved', [(True, False), (False, True)])
def test_a_resumed_optimizer_keeps_its_own_implementation(own, saved):
    first, second = (
        AccumulativeAmpOptimWrapper(torch.optim.AdamW(linear_net().parameters(), lr=0.1, fused=fused), dtype='float16')
        for fused in (saved, own)
    )
    second.load_state_dict(first.state_dict())
    assert second.optimizer.param_groups[0]['fused'] is own


def test_a_static_scale_stays_and_a_dict_is_dynamic():
    model = ToyModel(linear_net, torch.float32)
    for loss_scale, after in ((8, 8.0), (dict(init_scale=8.0, growth_interval=1), 16.0)):
        wrapper = build(model, dtype='float16', loss_scale=loss_scale)
        train(model, wrapper, [1.0])
        assert wrapper.scale == after


@pytest.mark.parametrize('scale', [1.0, 1024.0])
def test_the_reported_norm_and_the_gradient_do_not_depend_on_the_loss_scale(scale):
    model = ToyModel(layer_norm_net, torch.float32)
    reference = copy.deepcopy(model)
    wrapper, plain = (
        build(m, accumulative_counts=2, clip_grad=dict(max_norm=0.1), **kwargs)
        for m, kwargs in ((model, dict(dtype='float16', loss_scale=scale)), (reference, {}))
    )
    values = [0.5, 1.5]
    for m, w in ((model, wrapper), (reference, plain)):
        w.cast_dtype = torch.float32  # compare arithmetic, not float16's rounding
        train(m, w, values)
    assert wrapper.grad_norm == pytest.approx(plain.grad_norm, rel=1e-6)
    for ours, theirs in zip(model.parameters(), reference.parameters()):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16', 'float32'])
def test_the_toy_model_learns_in_every_dtype_through_a_stock_runner(dtype, tmp_path):
    runner = toy_runner(
        tmp_path,
        ToyModel(layer_norm_net, torch.float32),
        optim_wrapper=dict(
            type='bevfusion_plugin.AccumulativeAmpOptimWrapper',
            dtype=dtype,
            accumulative_counts=2,
            optimizer=dict(type='AdamW', lr=0.03),
            clip_grad=dict(max_norm=35, norm_type=2),
        ),
        train_dataloader=toy_loader(ToyData(dtype=torch.float32)),
        train_cfg=dict(by_epoch=True, max_epochs=10),
    )
    runner.train()
    losses = runner.message_hub.get_scalar('train/loss').data[0]
    assert losses[-8:].mean() < 0.5 * losses[:8].mean()
    assert runner.optim_wrapper.updates + runner.optim_wrapper.skipped_updates == 40


def test_a_window_is_unscaled_clipped_and_stepped_once(monkeypatch):
    model = ToyModel(layer_norm_net, torch.float32)
    wrapper = build(model, accumulative_counts=4, dtype='float16', loss_scale=8.0, clip_grad=dict(max_norm=1.0))
    calls = []

    def count(owner, name):
        method = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args, **kwargs: calls.append(name) or method(*args, **kwargs))

    for owner, name in (
        (wrapper.loss_scaler, 'unscale_'),
        (wrapper, 'clip_func'),
        (wrapper.optimizer, 'step'),
        (wrapper.loss_scaler, 'update'),
    ):
        count(owner, name)
    train(model, wrapper, [1.0] * 8)
    assert calls == ['unscale_', 'clip_func', 'step', 'update'] * 2


def test_openpcdets_new_scaler_every_epoch_is_offered():
    scales = {}
    for reset in (False, True):
        model = ToyModel(linear_net, torch.float32)
        wrapper = build(
            model,
            dtype='float16',
            loss_scale=dict(init_scale=4.0, growth_interval=1),
            accumulative_counts=2,
            reset_scaler_every_epoch=reset,
        )
        wrapper.batches_per_epoch = 4
        scales[reset] = []
        train(model, wrapper, [1.0] * 8, lambda i: scales[reset].append(wrapper.scale))
    assert scales[False] == [4.0, 8.0, 8.0, 16.0, 16.0, 32.0, 32.0, 64.0]
    assert scales[True] == [4.0, 8.0, 8.0, 16.0, 4.0, 8.0, 8.0, 16.0]


@pytest.mark.parametrize('length, counts', [(4, 2), (3, 4)])
def test_bn_momentum_is_corrected_on_request_only(length, counts):
    for correction in (False, True):
        model = ToyModel(batch_norm_net)
        momentum = model.net[1].momentum
        wrapper = build(model, accumulative_counts=counts, bn_momentum_correction=correction)
        for _ in range(2):
            wrapper.initialize_count_status(model, 0, length)
        expected = 1 - (1 - momentum) ** (1 / counts) if correction else momentum
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
