"""A moving average of the weights that moves once an update."""

from __future__ import annotations

import re
from typing import Any

from mmengine.hooks import EMAHook as MMEngineEMAHook
from mmengine.registry import MODELS
from mmengine.runner import Runner

from bevfusion_plugin.engine.accumulation.runner_plan import wrappers_of
from bevfusion_plugin.engine.accumulation.window import made_update
from bevfusion_plugin.plan.checked_settings import positive, positive_int, switch, whole_number
from bevfusion_plugin.registry import HOOKS


@HOOKS.register_module()
class EMAHook(MMEngineEMAHook):
    """MMEngine's EMAHook, except that the average moves when an update was applied, not at every micro-batch.

    With A accumulated micro-batches MMEngine's forgets A times as fast as on A times the GPUs. An update that was skipped
    because of an overflow does not count either. Arguments are MMEngine's; ``begin_iter`` stays in micro-batches.

    Raises:
        ValueError: If one cannot be.

    Source:
        MMEngine 0.10.7, EMAHook.
    """

    def __init__(
        self,
        ema_type: str = 'ExponentialMovingAverage',
        strict_load: bool = False,
        begin_iter: int = 0,
        begin_epoch: int = 0,
        **kwargs: Any,
    ) -> None:
        is_name = isinstance(ema_type, str) and re.fullmatch(r'\w+(\.\w+)?', ema_type)
        with MODELS.switch_scope_and_registry(None) as models:  # the default scope's, as when the average is built
            if not is_name or models.get(ema_type) is None:
                raise ValueError(f"ema_type must be the name of an average such as 'ExponentialMovingAverage', got {ema_type!r}")
        switch('strict_load', strict_load)
        whole_number('begin_iter', begin_iter, 0)
        whole_number('begin_epoch', begin_epoch, 0)
        positive('momentum', kwargs.get('momentum', 0.0002), below=1)
        positive_int('interval', kwargs.get('interval', 1), 'it counts updates')
        switch('update_buffers', kwargs.get('update_buffers', False))
        super().__init__(ema_type, strict_load, begin_iter, begin_epoch, **kwargs)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Move the average if this micro-batch made an update."""
        if not self._ema_started(runner) or any(made_update(wrapper) for wrapper in wrappers_of(runner).values()):
            super().after_train_iter(runner, batch_idx, data_batch, outputs)
