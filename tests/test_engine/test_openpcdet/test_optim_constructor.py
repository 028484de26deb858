from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper, build_optim_wrapper
from torch import nn
from toy_models_openpcdet import ConvBN, Direct, Unused

from bevfusion_plugin.engine import OpenPCDetOptimWrapperConstructor

LR, DECAY = 1e-3, 0.1


def build(model: nn.Module, paramwise_cfg: dict | None = None, **optimizer: Any) -> OptimWrapper:
    settings = {'type': 'AdamW', 'lr': LR, 'weight_decay': DECAY, **optimizer}
    return build_optim_wrapper(
        model, dict(constructor='bevfusion_plugin.OpenPCDetOptimWrapperConstructor', optimizer=settings, paramwise_cfg=paramwise_cfg)
    )


def groups_of(model: nn.Module, wrapper: OptimWrapper) -> list[tuple[list[str], float, float]]:
    """(names, lr, weight decay) of every group."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return [
        ([names[parameter] for parameter in group['params']], group['lr'], group['weight_decay'])
        for group in wrapper.optimizer.param_groups
    ]


# Groups


def test_a_model_without_batch_norm_keeps_an_empty_second_group():
    model = Unused(4, 7, 2)
    assert [len(names) for names, _, _ in groups_of(model, build(model))] == [6, 0]


def test_a_wrapped_model_gives_the_names_and_groups_of_the_model_inside(tmp_path):
    torch.distributed.init_process_group('gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1)
    try:
        model = ConvBN(2, 4, 3)
        wrapper = build(MMDistributedDataParallel(model), dict(custom_keys={'fc': dict(lr_mult=0.1)}))
        assert groups_of(model, wrapper)[2] == (['fc.weight', 'fc.bias'], pytest.approx(LR / 10), DECAY)
    finally:
        torch.distributed.destroy_process_group()


def test_a_parameter_in_no_group_stops_the_constructor_with_its_name(monkeypatch):
    monkeypatch.setattr(
        'bevfusion_plugin.engine.openpcdet.optim_constructor.layer_groups',
        lambda model, leaf_modules_only: [{'fc1.weight': model.fc1.weight}, {}],
    )
    with pytest.raises(ValueError, match=r"in none: \['fc1.bias', 'head.weight'"):
        build(Unused(4, 7, 2))


def test_leaf_modules_only_logs_what_is_never_trained(log):
    build(Direct(5, 6, 2), dict(leaf_modules_only=True))
    assert '3 trainable parameters' in log.text and 'attn.in_proj_weight' in log.text


def test_nothing_to_train_is_refused():
    with pytest.raises(ValueError, match='ConvBN has no trainable parameter'):
        build(ConvBN(2, 4, 3).requires_grad_(False))


# Weight decay


def step_without_gradients(model: nn.Module, wrapper: OptimWrapper) -> dict[str, float]:
    """Factor by which one update with zero gradients shrinks each parameter (all start at one)."""
    for parameter in model.parameters():
        nn.init.ones_(parameter)
        parameter.grad = torch.zeros_like(parameter)
    wrapper.step()
    return {name: parameter.detach().flatten()[0].item() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize('kind', ['Adam', 'AdamW'])
def test_decay_is_decoupled_and_reaches_biases_and_batch_norm(kind):
    model = ConvBN(2, 4, 3).double()
    factors = step_without_gradients(model, build(model, type=kind))
    assert set(factors.values()) == {1 - LR * DECAY}


def test_sgd_keeps_torchs_coupled_decay():
    model = ConvBN(2, 4, 3).double()
    wrapper = build(model, type='SGD', momentum=0.9)
    step_without_gradients(model, wrapper)
    assert step_without_gradients(model, wrapper)['fc.bias'] == 1 - LR * (0.9 * DECAY + DECAY)


def test_bn_wd_false_spares_batch_norm_unless_a_custom_key_names_its_decay():
    model = ConvBN(2, 4, 3)
    wrapper = build(model, dict(bn_wd=False, custom_keys={'stem': dict(lr_mult=0.5), 'block': dict(decay_mult=2.0)}))
    decay = {name: group_decay for names, _, group_decay in groups_of(model, wrapper) for name in names}
    assert decay == {
        'stem.conv.weight': DECAY,
        'stem.bn.weight': 0.0,
        'stem.bn.bias': 0.0,
        'block.conv.weight': 2 * DECAY,
        'block.bn.weight': 2 * DECAY,
        'block.bn.bias': 2 * DECAY,
        'fc.weight': DECAY,
        'fc.bias': DECAY,
    }


@pytest.mark.parametrize('decay_unused, factor', [(True, 1 - LR * DECAY), (False, 1.0)])
def test_decay_unused_decays_parameters_without_gradient(decay_unused, factor):
    model = Unused(4, 7, 2).double()
    nn.init.ones_(model.aux.weight)
    wrapper = build(model, dict(decay_unused=decay_unused))
    wrapper.update_params(model(torch.ones(2, 4, dtype=torch.float64)).square().mean())
    assert set(model.aux.weight.flatten().tolist()) == {factor}


def test_decay_unused_spares_parameters_frozen_after_building():
    model = Unused(4, 7, 2)
    wrapper = build(model, dict(decay_unused=True))
    before = model.aux.weight.detach().clone()
    model.aux.requires_grad_(False)
    wrapper.update_params(model(torch.ones(2, 4)).square().mean())
    assert torch.equal(model.aux.weight, before)


@pytest.mark.parametrize('fused', [True, False])
def test_decay_unused_waits_when_the_scaler_skips_an_update(fused):
    model = Unused(4, 7, 2)
    wrapper = build(model, dict(decay_unused=True), fused=fused)
    before = copy.deepcopy(model.state_dict())
    scaler = torch.amp.GradScaler('cpu')
    scaler.scale(model(torch.full((2, 4), float('inf'))).sum()).backward()
    scaler.step(wrapper.optimizer)
    scaler.update()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(int(state.get('step', 0)) == 0 for state in wrapper.optimizer.state.values())


# Settings of groups


def test_custom_keys_follow_mmengines_matching():
    model = ConvBN(2, 4, 3)
    wrapper = build(
        model, dict(custom_keys={'bn': dict(lr_mult=0.1), 'stem.bn': dict(decay_mult=0.0), 'fc': dict(lr_mult=0.5, decay_mult=3.0)})
    )
    assert groups_of(model, wrapper) == [
        (['stem.conv.weight', 'block.conv.weight'], LR, DECAY),
        ([], LR, DECAY),
        (['fc.weight', 'fc.bias'], LR * 0.5, DECAY * 3.0),
        (['stem.bn.weight', 'stem.bn.bias'], LR, 0.0),
        (['block.bn.weight', 'block.bn.bias'], LR * 0.1, DECAY),
    ]


def test_custom_keys_of_equal_length_go_by_the_alphabet_and_the_models_own_parameters_have_a_leading_dot():
    model = Direct(5, 6, 2)
    wrapper = build(
        model,
        dict(
            custom_keys={
                'gate.gain': dict(lr_mult=2.0),
                'e.gain': dict(lr_mult=3.0),
                'gate.lin': dict(lr_mult=4.0),
                '.lin.wei': dict(lr_mult=5.0),
                '.scale': dict(lr_mult=6.0),
            }
        ),
    )
    lrs = {name: round(lr / LR, 9) for names, lr, _ in groups_of(model, wrapper) for name in names}
    assert (lrs['gate.gain'], lrs['gate.lin.weight'], lrs['scale'], lrs['head.bias']) == (2.0, 5.0, 6.0, 1.0)


def test_custom_keys_may_carry_any_setting_of_a_group():
    model = ConvBN(2, 4, 3)
    wrapper = build(model, dict(custom_keys={'fc': dict(eps=1e-4)}))
    assert [group['eps'] for group in wrapper.optimizer.param_groups] == [1e-8, 1e-8, 1e-4]


def test_a_custom_key_that_matches_nothing_is_logged(log):
    build(ConvBN(2, 4, 3), dict(custom_keys={'fcc': dict(lr_mult=0.1)}))
    assert "name no trainable parameter: ['fcc']" in log.text


@pytest.mark.parametrize('betas, expected', [({}, (0.9, 0.99)), (dict(betas=(0.95, 0.999)), (0.95, 0.999))])
def test_betas_default_to_openpcdets(betas, expected):
    assert build(ConvBN(2, 4, 3), **betas).optimizer.defaults['betas'] == expected


def test_adam_without_weight_decay_has_none():
    constructor = OpenPCDetOptimWrapperConstructor(dict(optimizer=dict(type='Adam', lr=LR)))
    optimizer = constructor(ConvBN(2, 4, 3)).optimizer
    assert (type(optimizer), optimizer.defaults['weight_decay']) == (torch.optim.AdamW, 0)


@pytest.mark.parametrize('kind', ['AdamW', torch.optim.AdamW])
def test_the_type_may_be_a_name_or_a_class(kind):
    assert isinstance(build(ConvBN(2, 4, 3), type=kind).optimizer, torch.optim.AdamW)


@pytest.mark.parametrize(
    'settings, fused, foreach',
    [({}, True, None), (dict(foreach=True), None, True), (dict(fused=False), False, None), (dict(differentiable=True), None, None)],
)
def test_adamw_is_fused_unless_the_config_or_torch_speaks_against_it(settings, fused, foreach):
    optimizer = build(ConvBN(2, 4, 3), **settings).optimizer
    assert all((group['fused'], group['foreach']) == (fused, foreach) for group in optimizer.param_groups)


def test_sgd_with_momentum_survives_a_skipped_first_update_and_a_late_gradient():
    """Why SGD is not fused: that kernel leaves its momentum uninitialised there, and fails on the late gradient."""
    model = Unused(4, 7, 2)
    optimizer = build(model, type='SGD', momentum=0.9).optimizer
    scaler = torch.amp.GradScaler('cpu')
    for factor in (float('inf'), 1.0):
        optimizer.zero_grad()
        scaler.scale(factor * model(torch.ones(2, 4)).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
    assert torch.equal(
        optimizer.state[model.head.bias]['momentum_buffer'],
        model.head.bias.grad + DECAY * (model.head.bias + LR * optimizer.state[model.head.bias]['momentum_buffer']),
    )
    model.aux.weight.grad = torch.ones_like(model.aux.weight)
    optimizer.step()


# The config


def test_building_twice_from_one_config_gives_equal_wrappers_and_leaves_the_config_alone():
    config = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=LR), clip_grad=dict(type='value', clip_value=1.0))
    original = copy.deepcopy(config)
    model = ConvBN(2, 4, 3)
    first, second = (OpenPCDetOptimWrapperConstructor(config)(model) for _ in range(2))
    assert config == original
    assert first.clip_func is second.clip_func
    assert groups_of(model, first) == groups_of(model, second)
    constructor = OpenPCDetOptimWrapperConstructor(config)
    assert constructor(model).clip_func is constructor(model).clip_func


@pytest.mark.parametrize(
    'optimizer, paramwise_cfg, message',
    [
        (dict(type='RMSprop', lr=LR), None, 'must be Adam, AdamW or SGD, got RMSprop'),
        (dict(type='Lion', lr=LR), None, 'must be Adam, AdamW or SGD, got Lion'),
        (dict(type=torch.optim.Adagrad, lr=LR), None, 'must be Adam, AdamW or SGD'),
        (dict(lr=LR), None, 'optimizer must be a dict with type, got'),
        (dict(type='AdamW'), None, 'optimizer.lr is missing'),
        (dict(type='AdamW', lr=LR), dict(norm_decay_mult=0.0), 'got norm_decay_mult'),
        (dict(type='SGD', lr=LR), dict(decay_unused=True), 'needs decoupled weight decay, got SGD'),
    ],
)
def test_a_wrong_config_is_refused_before_any_model_is_seen(optimizer, paramwise_cfg, message):
    with pytest.raises(ValueError, match=message):
        OpenPCDetOptimWrapperConstructor(dict(optimizer=optimizer), paramwise_cfg)


@pytest.mark.parametrize(
    'settings, named',
    [
        (dict(requires_grad=False), 'requires_grad, which nothing reads; freeze it in the model'),
        (dict(lr_mul=0.1), 'lr_mul, which nothing reads; it takes'),
        (dict(wd=0.0), 'wd'),
    ],
)
def test_a_custom_key_with_a_setting_that_nothing_reads_is_refused(settings, named):
    with pytest.raises(ValueError, match=named):
        build(ConvBN(2, 4, 3), dict(custom_keys={'bn': settings}))


def test_frozen_parameters_are_named_since_unfreezing_them_later_does_not_train_them(log):
    model = ConvBN(2, 4, 3)
    first, parameter = next(model.named_parameters())
    parameter.requires_grad = False
    build(model, {})
    assert f'1 frozen parameters are in no group of the optimizer, the first {first}' in log.text
