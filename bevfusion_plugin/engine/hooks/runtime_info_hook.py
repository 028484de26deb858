"""The losses of an update, logged once."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.dist import all_gather_object, all_reduce, get_world_size
from mmengine.hooks import RuntimeInfoHook as MMEngineRuntimeInfoHook
from mmengine.runner import Runner
from torch import Tensor

from bevfusion_plugin.engine.accumulation.runner_plan import wrappers_of
from bevfusion_plugin.registry import HOOKS


@HOOKS.register_module()
class RuntimeInfoHook(MMEngineRuntimeInfoHook):
    """MMEngine's RuntimeInfoHook, except that a loss is logged once an update: its mean over the window and over the ranks.

    MMEngine's logs rank 0's losses of every micro-batch and waits for the device at each of them. A term that a micro-batch does not
    have does not count in its mean; the terms that are averaged over the ranks are those that any rank had in its first window.

    Source:
        MMEngine 0.10.7, RuntimeInfoHook.
    """

    def __init__(self) -> None:
        self._outputs: list[dict[str, Any]] = []
        self._shared: list[str] | None = None  # terms that are averaged over the ranks

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None) -> None:
        """Keep the losses till the window's end, then log their means."""
        self._outputs.append(outputs or {})
        if not all(wrapper.should_update() for wrapper in wrappers_of(runner).values()):
            return
        window, self._outputs = self._outputs, []
        for name, mean in self._means(window).items():
            runner.message_hub.update_scalar(f'train/{name}', mean)

    def _means(self, window: list[dict[str, Any]]) -> dict[str, float]:
        own = list(dict.fromkeys(name for outputs in window for name in outputs))
        if not own and get_world_size() == 1:
            return {}
        if self._shared is None:
            self._shared = list(dict.fromkeys(name for names in all_gather_object(own) for name in names))
        shared = sums_and_counts(window, self._shared)
        all_reduce(shared, 'sum')
        alone = [name for name in own if name not in self._shared]
        sums, counts = torch.cat([shared, sums_and_counts(window, alone)], dim=1).tolist()
        return {name: total / count for name, total, count in zip([*self._shared, *alone], sums, counts) if count}


def sums_and_counts(window: list[dict[str, Any]], names: list[str]) -> Tensor:
    """Sum of each term over the micro-batches that have it, and how many do.

    Args:
        window: What ``train_step`` returned for each micro-batch: scalars by name.
        names: K terms.

    Returns:
        (2, K) float64, on the device of the first tensor; nothing waits for it.
    """
    device = next((value.device for outputs in window for value in outputs.values() if isinstance(value, Tensor)), 'cpu')
    found = torch.zeros(2, len(names), dtype=torch.float64, device=device)
    for column, name in enumerate(names):
        values = [torch.as_tensor(outputs[name], device=device).detach().double().mean() for outputs in window if name in outputs]
        if values:
            found[0, column] = torch.stack(values).sum()
            found[1, column] = len(values)
    return found
