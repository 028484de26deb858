"""Log lines that cover whole updates."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import LoggerHook as MMEngineLoggerHook
from mmengine.runner import Runner

from bevfusion_plugin.engine.accumulation.runner_plan import wrappers_of
from bevfusion_plugin.engine.accumulation.window import window_of
from bevfusion_plugin.plan.checked_settings import positive_int, switch
from bevfusion_plugin.registry import HOOKS


@HOOKS.register_module()
class LoggerHook(MMEngineLoggerHook):
    """MMEngine's LoggerHook with its arguments, except that ``interval`` counts updates, and a line stands at the end of one.

    With A accumulated micro-batches MMEngine's ``interval=50`` are 50 / A updates. The lines of an epoch that a training goes on inside
    are numbered as if it had not stopped. With other wrappers than :class:`AccumulativeAmpOptimWrapper` it is MMEngine's.

    Raises:
        ValueError: If one cannot be.

    Source:
        MMEngine 0.10.7, LoggerHook.
    """

    def __init__(self, interval: int = 10, ignore_last: bool = True, interval_exp_name: int = 1000, **kwargs: Any) -> None:
        positive_int('interval', interval, 'it counts updates')
        switch('ignore_last', ignore_last)
        positive_int('interval_exp_name', interval_exp_name)
        for name in ('keep_local', 'log_metric_by_epoch'):
            switch(name, kwargs.get(name, True))
        super().__init__(interval, ignore_last, interval_exp_name, **kwargs)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Write a line if one is due."""
        window = next(filter(None, map(window_of, wrappers_of(runner).values())), None)
        if window is None:
            return super().after_train_iter(runner, batch_idx, data_batch, outputs)
        length = len(runner.train_dataloader) if runner.max_epochs > 1 else runner.max_iters
        batch_idx = runner.iter % length
        is_last = batch_idx + 1 == length and (not self.ignore_last or length <= self.interval)
        if not window.is_closed_now or not ((window.updates + window.skipped) % self.interval == 0 or is_last):
            return None
        tag, line = runner.log_processor.get_log_after_iter(runner, batch_idx, 'train')
        runner.logger.info(line)
        runner.visualizer.add_scalars(tag, step=runner.iter + 1, file_path=self.json_log_path)
        return None
