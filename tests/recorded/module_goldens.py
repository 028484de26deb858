"""Checks one module against a recorded case: outputs, input and parameter gradients, BatchNorm statistics."""

from __future__ import annotations

from collections.abc import Callable

from goldens import Golden, assert_close
from torch import Tensor, nn

FORWARD, GRADIENT = 1e-5, 1e-4  # relative to the largest element, as NOTES.md of the goldens advises


def check_module(module: nn.Module, golden: Golden, mode: str, call: Callable[[nn.Module, list[Tensor]], list[Tensor]]) -> None:
    """Load the recorded state, run ``call(module, inputs)`` in ``mode`` and compare everything recorded for it."""
    module.load_state_dict(golden.group('sd/'), strict=True)
    module.train(mode == 'train')
    inputs = [x.requires_grad_() for x in golden.series('in/x')]
    outputs = call(module, inputs)
    outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    expected = golden.series(f'{mode}/out/')
    assert len(outputs) == len(expected)
    for index, (actual, wanted) in enumerate(zip(outputs, expected)):
        assert_close(actual, wanted, FORWARD, f'out/{index}')
    sum((out * cot).sum() for out, cot in zip(outputs, golden.series('cot/'))).backward()
    for index, (x, wanted) in enumerate(zip(inputs, golden.series(f'{mode}/gin/x'))):
        assert_close(x.grad, wanted, GRADIENT, f'gin/x{index}')
    check_parameters(module, golden, mode)


def check_parameters(module: nn.Module, golden: Golden, mode: str) -> None:
    """Compare the parameters' gradients and, in train mode, the running statistics with the recorded ones."""
    parameters, buffers = dict(module.named_parameters()), dict(module.named_buffers())
    gradients = golden.group(f'{mode}/gpar/')
    assert gradients, f'no gradients recorded for mode {mode}'
    for name, wanted in gradients.items():
        assert_close(parameters[name].grad, wanted, GRADIENT, f'gpar/{name}')
    if mode == 'train':
        for name, wanted in golden.group('train/sd_after/').items():
            assert_close(buffers[name], wanted, FORWARD, f'sd_after/{name}')
