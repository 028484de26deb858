import copy

import pytest
import torch
from mmengine.optim import OptimWrapper
from torch import nn
from toy_training import FEATURES, ToyModel, batch_norm_net, layer_norm_net, linear_net

from bevfusion_plugin.engine.accumulation.optim_wrapper import AccumulativeAmpOptimWrapper
from bevfusion_plugin.registry import OPTIM_WRAPPERS


def batches(sizes, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(sum(sizes), FEATURES, generator=generator, dtype=torch.float64).to(dtype)
    y = torch.randn(sum(sizes), 1, generator=generator, dtype=torch.float64).to(dtype)
    return list(zip(x.split(sizes), y.split(sizes)))


def build(model, **kwargs):
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    return AccumulativeAmpOptimWrapper(optimizer, **{'dtype': 'float32', **kwargs})


def keep_gradients(wrapper):
    """What each update was made from: copies taken in the optimizer's step."""
    seen = []
    wrapper.optimizer.register_step_pre_hook(lambda optimizer, args, kwargs: seen.append([p.grad.clone() for p in wrapper._parameters()]))
    return seen


def run(model, wrapper, data, total=None):
    wrapper.initialize_count_status(model, 0, len(data) if total is None else total)
    for x, y in data:
        with wrapper.optim_context(model):
            losses = model(x, y)
        wrapper.update_params(losses['loss_fit'])


def single_gradient(model, x, y):
    model = copy.deepcopy(model)
    model(x, y)['loss_fit'].backward()
    return [p.grad for p in model.parameters()]


def relative_error(actual, expected):
    flat, wanted = (torch.cat([g.flatten() for g in gradients]).double() for gradients in (actual, expected))
    return float((flat - wanted).norm() / wanted.norm())


@pytest.mark.parametrize('dtype, bound', [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_equal_micro_batches_of_a_layer_norm_model_give_the_big_batch_gradient(dtype, bound):
    model = ToyModel(layer_norm_net, dtype)
    data = batches([8] * 4, dtype)
    big = single_gradient(model, torch.cat([x for x, _ in data]), torch.cat([y for _, y in data]))
    wrapper = build(model, accumulative_counts=4)
    seen = keep_gradients(wrapper)
    run(model, wrapper, data)
    assert len(seen) == 1
    assert relative_error(seen[0], big) <= bound


@pytest.mark.parametrize('counts', [2, 4])
def test_with_batch_norm_the_gradient_is_exactly_the_mean_of_single_ranks(counts):
    model = ToyModel(batch_norm_net)
    data = batches([4] * counts)
    singles = [single_gradient(model, x, y) for x, y in data]
    wrapper = build(model, accumulative_counts=counts)
    seen = keep_gradients(wrapper)
    run(model, wrapper, data)
    for gradient, parts in zip(seen[0], zip(*singles)):
        assert torch.equal(gradient, sum(parts) / counts)


def test_uneven_micro_batches_weighted_by_samples_give_the_big_batch_gradient():
    model = ToyModel(layer_norm_net)
    data = batches([8, 8, 8, 5])
    big = single_gradient(model, torch.cat([x for x, _ in data]), torch.cat([y for _, y in data]))
    errors = {}
    for weight_by in ('micro_batch', 'samples'):
        trained = copy.deepcopy(model)
        wrapper = build(trained, accumulative_counts=4, weight_by=weight_by)
        seen = keep_gradients(wrapper)
        run(trained, wrapper, data)
        errors[weight_by] = relative_error(seen[0], big)
    assert errors['samples'] <= 1e-12
    assert errors['micro_batch'] > 1e-2


def test_weighting_by_samples_needs_inputs_that_can_be_counted():
    model = ToyModel()
    wrapper = build(model, weight_by='samples')
    with pytest.raises(ValueError, match="weight_by='samples' cannot tell how many samples"):
        wrapper.update_params(sum(p.sum() for p in model.parameters()))  # no forward inside optim_context


@pytest.mark.parametrize('flush, updates', [('epoch', [4, 4, 2, 4, 4, 2]), ('train', [4, 4, 4, 4, 4])])
@pytest.mark.parametrize('weight_by', ['micro_batch', 'samples'])
def test_the_weights_of_every_window_sum_to_one(flush, updates, weight_by):
    model = ToyModel(lambda: nn.Linear(FEATURES, 1, bias=False))
    wrapper = build(model, accumulative_counts=4, flush=flush, weight_by=weight_by)
    assert wrapper.weight_by == weight_by
    wrapper.batches_per_epoch = 10
    sums = []
    wrapper.optimizer.register_step_pre_hook(lambda *args: sums.append(model.net.weight.grad.clone()))
    wrapper.initialize_count_status(model, 0, 20)
    for _ in range(20):
        with wrapper.optim_context(model):
            model(torch.ones(2, FEATURES, dtype=torch.float64), torch.ones(2, 1, dtype=torch.float64))
        wrapper.update_params(model.net.weight.sum())  # gradient 1, so that a window's gradient is its sum of weights
    assert len(sums) == len(updates) == wrapper.updates
    for total in sums:
        torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-15, atol=0)


def test_windows_are_as_mmengines_with_flush_train():
    model, reference = ToyModel(), ToyModel()
    data = batches([4] * 10)
    wrapper = build(model, accumulative_counts=4, flush='train')
    stock = OptimWrapper(torch.optim.SGD(reference.parameters(), lr=1.0), accumulative_counts=4)
    run(model, wrapper, data)
    run(reference, stock, data)
    for ours, theirs in zip(model.parameters(), reference.parameters()):
        torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-15)


def test_a_window_is_clipped_once_and_the_norm_is_that_of_the_big_batch(monkeypatch):
    model = ToyModel(layer_norm_net, torch.float32)
    data = batches([4] * 8, torch.float32)
    wrapper = build(model, accumulative_counts=4, clip_grad=dict(max_norm=1e-3, norm_type=2))
    expected = []
    clip, calls = wrapper.clip_func, []
    monkeypatch.setattr(wrapper, 'clip_func', lambda *args, **kwargs: calls.append(1) or clip(*args, **kwargs))
    wrapper.initialize_count_status(model, 0, 8)
    for start in (0, 4):
        part = data[start : start + 4]
        big = single_gradient(model, torch.cat([x for x, _ in part]), torch.cat([y for _, y in part]))
        expected.append(torch.cat([g.flatten() for g in big]).norm().item())
        for x, y in part:
            with wrapper.optim_context(model):
                losses = model(x, y)
            wrapper.update_params(losses['loss_fit'])
        assert wrapper.grad_norm == pytest.approx(expected[-1], rel=1e-6)
        assert wrapper.clipped
    assert len(calls) == 2


@pytest.mark.parametrize('clip_grad', [None, dict(type='value', clip_value=1e-3), dict(max_norm=1e9, norm_type=1)])
def test_other_clippings_leave_what_they_should(clip_grad):
    model = ToyModel(linear_net)
    ((x, y),) = batches([4])
    gradient = torch.cat([g.flatten() for g in single_gradient(model, x, y)])
    wrapper = build(model, clip_grad=clip_grad)
    seen = keep_gradients(wrapper)
    run(model, wrapper, [(x, y)])
    by_value = clip_grad and 'clip_value' in clip_grad
    order = (clip_grad or {}).get('norm_type', 2)
    assert wrapper.grad_norm == pytest.approx(gradient.norm(order).item(), rel=1e-12)
    kept = gradient.clamp(-1e-3, 1e-3) if by_value else gradient
    torch.testing.assert_close(torch.cat([g.flatten() for g in seen[0]]), kept)
    assert not wrapper.clipped


def test_gradients_are_the_only_thing_kept_between_micro_batches():
    model = ToyModel()
    wrapper = build(model, accumulative_counts=3)
    wrapper.initialize_count_status(model, 0, 6)
    addresses = set()
    for x, y in batches([4] * 3):
        with wrapper.optim_context(model):
            losses = model(x, y)
        wrapper.scale_loss(losses['loss_fit'])
        losses['loss_fit'].backward()
        addresses.add(tuple(p.grad.data_ptr() for p in model.parameters()))
        held = [t for micro_batch in wrapper.window.micro_batches for t in (micro_batch.loss, *micro_batch.terms.values())]
        assert all(t.dim() == 0 and t.grad_fn is None for t in held)
    assert len(addresses) == 1
    assert not model._forward_hooks, 'a forward hook was left on the model'


def test_should_update_speaks_of_the_micro_batch_just_done():
    model = ToyModel()
    wrapper = build(model, accumulative_counts=2)
    answers = []
    wrapper.initialize_count_status(model, 0, 5)
    for x, y in batches([2] * 5):
        with wrapper.optim_context(model):
            losses = model(x, y)
        wrapper.update_params(losses['loss_fit'])
        answers.append(wrapper.should_update())
    assert answers == [False, True, False, True, True]


def test_one_config_builds_twice_and_is_not_changed():
    model = ToyModel()
    config = dict(
        type='bevfusion_plugin.AccumulativeAmpOptimWrapper',
        accumulative_counts=4,
        dtype='float16',
        loss_scale=dict(init_scale=8.0),
        optimizer=torch.optim.SGD(model.parameters(), lr=1.0),
        clip_grad=dict(type='value', clip_value=0.5),
    )
    before = copy.deepcopy({key: value for key, value in config.items() if key != 'optimizer'})
    first, second = OPTIM_WRAPPERS.build(config), OPTIM_WRAPPERS.build(config)
    assert {key: value for key, value in config.items() if key != 'optimizer'} == before
    assert first.clip_func is second.clip_func is torch.nn.utils.clip_grad_value_
    assert first.clip_grad_kwargs == second.clip_grad_kwargs == dict(clip_value=0.5)
    assert first.state_dict() == second.state_dict()


@pytest.mark.parametrize(
    'setting, message',
    [
        (dict(accumulative_counts=0), 'accumulative_counts must be an int >= 1, got 0'),
        (dict(accumulative_counts=-1), 'got -1'),
        (dict(accumulative_counts=2.5), 'got 2.5'),
        (dict(accumulative_counts='abc'), "got 'abc'; set optim_wrapper.accumulative_counts, or 'auto'"),
        (dict(accumulative_counts='auto'), 'total_batch_size must be an int >= 1, got None'),
        (dict(total_batch_size=0), 'total_batch_size must be an int >= 1, got 0'),
        (dict(flush='batch'), "flush must be one of 'epoch', 'train', got 'batch'"),
        (dict(weight_by='boxes'), "weight_by must be one of 'micro_batch', 'samples', got 'boxes'"),
        (dict(dtype='float8'), "dtype must be one of 'float16', 'bfloat16', 'float32', got 'float8'"),
        (dict(dtype=torch.int8), 'got torch.int8'),
        (dict(loss_scale='static'), "loss_scale must be 'dynamic', .* got 'static'"),
        (dict(loss_scale=0), 'got 0; set optim_wrapper.loss_scale'),
        (dict(loss_scale=True), 'got True'),
        (dict(loss_scale=dict(scale=2.0)), 'init_scale, growth_factor'),
        (dict(reset_scaler_every_epoch=True, flush='train'), "got flush='train'; set optim_wrapper.flush='epoch'"),
        (dict(max_bad_windows=0), 'max_bad_windows must be an int >= 1, got 0'),
    ],
)
def test_a_wrong_setting_is_refused_at_construction_with_the_value(setting, message):
    with pytest.raises(ValueError, match=message):
        build(ToyModel(), **setting)


def test_an_unresolved_auto_is_refused_before_training_with_the_mend():
    model = ToyModel()
    wrapper = build(model, accumulative_counts='auto', total_batch_size=32)
    with pytest.raises(ValueError, match="was not resolved; add dict\\(type='bevfusion_plugin.AutoScaleLRHook'\\)"):
        wrapper.initialize_count_status(model, 0, 4)


def test_a_loop_that_initialises_no_counts_does_not_take_auto_for_one():
    model = ToyModel()
    wrapper = build(model, accumulative_counts='auto', total_batch_size=32)
    with wrapper.optim_context(model):
        loss = model(torch.ones(2, FEATURES).double(), torch.ones(2, 1).double())['loss_fit']
    with pytest.raises(ValueError, match='was not resolved'):
        wrapper.update_params(loss)
