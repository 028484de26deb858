"""Every recorded OpenPCDet trajectory: 50 updates of a toy model with the converted optimizer and schedule."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from mmengine.optim import OptimWrapper, build_optim_wrapper
from toy_models_openpcdet import Recorded

from bevfusion_plugin.engine import convert_optimization
from bevfusion_plugin.registry import PARAM_SCHEDULERS

TRAJECTORIES = Recorded('trajectories')
TOLERANCE = {
    ('forward', 'float64'): 1e-9,
    ('forward', 'float32'): 2e-5,
    ('grads', 'float64'): 1e-12,
    ('grads', 'float32'): 2e-6,
    ('amp', 'float32'): 2e-6,
}
EVERY = 10  # updates between two recorded states


def is_comparable(case: dict[str, Any]) -> bool:
    """OpenPCDet clips the dropped parameters' stale gradients with the others; MMEngine clips what it optimises."""
    return not (case['dropped'] and case['max_norm'] < 1e6)


CASES = {case['id']: case for case in TRAJECTORIES.cases if is_comparable(case)}


def build(case: dict[str, Any], model: torch.nn.Module, **optimizer: Any) -> tuple[OptimWrapper, list]:
    config = convert_optimization(case['optim_cfg'], case['iters_per_epoch'])
    wrapper = dict(config['optim_wrapper'], type='OptimWrapper')
    del wrapper['dtype'], wrapper['loss_scale']
    wrapper['optimizer'] = dict(wrapper['optimizer'], **optimizer)
    if 'paramwise_cfg' in wrapper:
        wrapper['paramwise_cfg'] = dict(wrapper['paramwise_cfg'], leaf_modules_only=True)
    built = build_optim_wrapper(model, wrapper)
    schedulers = [PARAM_SCHEDULERS.build(cfg, default_args=dict(optimizer=built)) for cfg in config['param_scheduler']]
    TRAJECTORIES.freeze_after_build(case, model)
    return built, schedulers


def run(case: dict[str, Any], **optimizer: Any) -> dict[str, Any]:
    """What 50 updates of the case leave behind, in the recorded form."""
    model = TRAJECTORIES.model(case)
    wrapper, schedulers = build(case, model, **optimizer)
    parameters = dict(model.named_parameters())
    result: dict[str, Any] = dict(
        groups=group_names(model, wrapper), params=[TRAJECTORIES.flatten(case, parameters)], lr=[], mom=[], scale=[], stepped=[]
    )
    loop = dict(forward=forward_updates, grads=gradient_updates, amp=amp_updates)[case['variant']]
    for index, (scale, stepped) in enumerate(loop(case, model, wrapper)):
        result['lr'].append(wrapper.get_lr()['lr'][0])
        result['mom'].append(wrapper.get_momentum()['momentum'][0])
        result['scale'].append(scale)
        result['stepped'].append(stepped)
        finish_update(result, case, index, parameters, schedulers)
    result['state'] = optimizer_state(wrapper, parameters)
    return result


def finish_update(result: dict[str, Any], case: dict[str, Any], index: int, parameters: dict[str, torch.Tensor], schedulers: list) -> None:
    for scheduler in schedulers:
        scheduler.step()
    if index % EVERY == EVERY - 1:
        result['params'].append(TRAJECTORIES.flatten(case, parameters))


def optimizer_state(wrapper: OptimWrapper, parameters: dict[str, torch.Tensor]) -> dict[str, Any]:
    return {name: wrapper.optimizer.state[parameter] for name, parameter in parameters.items() if parameter in wrapper.optimizer.state}


def group_names(model: torch.nn.Module, wrapper: OptimWrapper) -> list[list[str]]:
    names = {parameter: name for name, parameter in model.named_parameters()}
    return [[names[parameter] for parameter in group['params']] for group in wrapper.optimizer.param_groups]


def forward_updates(case, model, wrapper):
    for x, y in TRAJECTORIES.batches(case):
        wrapper.update_params(case['loss_multiplier'] * ((model(x) - y) ** 2).mean())
        yield 1.0, True


def gradient_updates(case, model, wrapper):
    for gradients in TRAJECTORIES.gradients(case):
        set_gradients(model, gradients)
        wrapper.step()
        yield 1.0, True


def amp_updates(case, model, wrapper):
    """OpenPCDet's loop: a new scaler every epoch, starting at LOSS_SCALE_FP16."""
    for index, gradients in enumerate(TRAJECTORIES.gradients(case)):
        if index % case['iters_per_epoch'] == 0:
            scaler = torch.amp.GradScaler('cpu', init_scale=float(case['optim_cfg'].get('LOSS_SCALE_FP16', 65536)))
            scaler.scale(torch.zeros(()))  # creates its scale
        scale = scaler.get_scale()
        set_gradients(model, {name: gradient * scale for name, gradient in gradients.items()})
        scaler.unscale_(wrapper.optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), case['max_norm'])
        scaler.step(wrapper.optimizer)
        scaler.update()
        yield scale, scaler.get_scale() >= scale


def set_gradients(model: torch.nn.Module, gradients: dict[str, torch.Tensor]) -> None:
    for name, parameter in model.named_parameters():
        parameter.grad = gradients.get(name)


@pytest.mark.parametrize('case_id', CASES)
def test_trajectory_equals_openpcdet(case_id):
    case = CASES[case_id]
    result = run(case)
    tolerance = dict(rtol=0, atol=TOLERANCE[case['variant'], case['dtype']])
    assert result['groups'] == case['groups']
    for name in ('lr', 'mom'):
        np.testing.assert_allclose(result[name], TRAJECTORIES.array(case, name), rtol=1e-12, err_msg=name)
    np.testing.assert_allclose(result['params'], TRAJECTORIES.array(case, 'params'), **tolerance)
    for name in set(case['arrays']) & {'scale', 'stepped'}:
        np.testing.assert_array_equal(result[name], TRAJECTORIES.array(case, name), err_msg=name)
    check_state(case, result['state'], tolerance)


def check_state(case: dict[str, Any], state: dict[str, dict[str, torch.Tensor]], tolerance: dict[str, float]) -> None:
    assert {name: int(values['step']) for name, values in state.items() if 'step' in values} == case['adam_step']
    for key in ('exp_avg', 'exp_avg_sq', 'momentum_buffer'):
        if f'state_{key}' in case['arrays']:
            recorded = TRAJECTORIES.array(case, f'state_{key}')
            vector = TRAJECTORIES.flatten(case, {name: values[key] for name, values in state.items() if key in values})
            scale = max(1.0, np.abs(recorded).max())  # squared gradients reach hundreds
            np.testing.assert_allclose(vector / scale, recorded / scale, err_msg=key, **tolerance)


@pytest.mark.parametrize(
    'case_id', ['A/convbn/adam_onecycle/float64/grads', 'A/unused/adam_cosineanneal/float32/grads', 'A/mlp/adam_onecycle/float32/amp']
)
@pytest.mark.parametrize('implementation', [dict(fused=False), dict(foreach=True), dict(foreach=False)], ids=str)
def test_every_implementation_of_adamw_gives_the_same_trajectory(case_id, implementation):
    case = CASES[case_id]
    np.testing.assert_allclose(
        run(case, **implementation)['params'], TRAJECTORIES.array(case, 'params'), rtol=0, atol=TOLERANCE[case['variant'], case['dtype']]
    )


def test_the_dropped_parameters_are_those_that_openpcdet_drops():
    dropping = [case for case in TRAJECTORIES.cases if case['dropped']]
    assert dropping
    for case in dropping:
        model = TRAJECTORIES.model(case)
        kept = {name for group in group_names(model, build(case, model)[0]) for name in group}
        assert set(case['dropped']) == {name for name, _ in model.named_parameters()} - kept


def run_converted(case: dict[str, Any]) -> dict[str, Any]:
    """As :func:`run`, through the very wrapper that the conversion names: its autocast, scaler, clip and step."""
    model = TRAJECTORIES.model(case)
    config = convert_optimization(case['optim_cfg'], case['iters_per_epoch'])
    wrapper_config = config['optim_wrapper']
    if case['variant'] == 'amp':
        wrapper_config.update(dtype='float16', reset_scaler_every_epoch=True)
    wrapper = build_optim_wrapper(model, wrapper_config)
    wrapper.batches_per_epoch = case['iters_per_epoch']
    wrapper.initialize_count_status(model, 0, case['iters_per_epoch'] * case['epochs'])
    schedulers = [PARAM_SCHEDULERS.build(cfg, default_args=dict(optimizer=wrapper)) for cfg in config['param_scheduler']]
    TRAJECTORIES.freeze_after_build(case, model)
    parameters = dict(model.named_parameters())
    result: dict[str, Any] = dict(params=[TRAJECTORIES.flatten(case, parameters)], lr=[], mom=[], scale=[], stepped=[])
    wrapper.on_first_gradient = result['scale'].append
    for index, gradients in enumerate(TRAJECTORIES.gradients(case)):
        result['lr'].append(wrapper.get_lr()['lr'][0])
        result['mom'].append(wrapper.get_momentum()['momentum'][0])
        with wrapper.optim_context(model):
            loss = sum((parameters[name] * gradient).sum() for name, gradient in gradients.items())
        wrapper.update_params(loss)  # the gradient of this loss is the recorded one
        result['stepped'].append(wrapper.update_applied)
        finish_update(result, case, index, parameters, schedulers)
    result['state'] = optimizer_state(wrapper, parameters)
    return result


@pytest.mark.parametrize(
    'case_id',
    [
        key
        for key, case in CASES.items()
        if case['variant'] == 'amp'
        or (case['variant'] == 'grads' and case['dtype'] == 'float64' and case['set'] == 'A' and not case['dropped'])
    ],
)
def test_trajectory_through_the_converted_wrapper_equals_openpcdet(case_id):
    case = CASES[case_id]
    result = run_converted(case)
    tolerance = dict(rtol=0, atol=TOLERANCE[case['variant'], case['dtype']])
    for name in ('lr', 'mom'):
        np.testing.assert_allclose(result[name], TRAJECTORIES.array(case, name), rtol=1e-12, err_msg=name)
    for name in set(case['arrays']) & {'scale', 'stepped'}:
        np.testing.assert_array_equal(result[name], TRAJECTORIES.array(case, name), err_msg=name)
    np.testing.assert_allclose(result['params'], TRAJECTORIES.array(case, 'params'), **tolerance)
    check_state(case, result['state'], tolerance)
