"""A moving average of the weights that moves once an update."""
from __future__ import annotations

from typing import Any

from mmengine.hooks import EMAHook as MMEngineEMAHook
from mmengine.runner import Runner

from bevfusion_plugin.engine.accumulation.runner_plan import wrappers_of
from bevfusion_plugin.engine.accumulation.window import made_update
from bevfusion_plugin.registry import HOOKS


@HOOKS.register_module()
class EMAHook(MMEngineEMAHook):
    """MMEngine's EMAHook, except that the average moves when an update was applied, not at every micro-batch.

    With A accumulated micro-batches MMEngine's forgets A times as fast as on A times the GPUs. An update that was skipped
    because of an overflow does not count either. Arguments are MMEngine's; ``begin_iter`` stays in micro-batches.

    Source:
        MMEngine 0.10.7, EMAHook.
    """

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Move the average if this micro-batch made an update."""
        if not self._ema_started(runner) or any(made_update(wrapper) for wrapper in wrappers_of(runner).values()):
            super().after_train_iter(runner, batch_idx, data_batch, outputs)
