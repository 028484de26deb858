"""What an update was made of, in the log and every visualisation backend."""

from __future__ import annotations

import time
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import BaseLoop, Runner

from bevfusion_plugin.engine.accumulation.optim_wrapper import AccumulativeAmpOptimWrapper
from bevfusion_plugin.engine.accumulation.runner_plan import batch_plan_of
from bevfusion_plugin.engine.schedules.lr_scaling import mmengine_ratio
from bevfusion_plugin.engine.schedules.param_groups import distinct_groups, group_values
from bevfusion_plugin.engine.schedules.runner_schedulers import schedulers_of
from bevfusion_plugin.engine.schedules.span import span_of
from bevfusion_plugin.plan.training_table import TITLE, training_table
from bevfusion_plugin.registry import HOOKS


@HOOKS.register_module()
class TrainingMonitorHook(Hook):
    """Prints the batch plan at the start, and adds to every log line what the last update was.

    ``update`` (applied so far), ``total_batch``, ``samples_per_sec``, LR and beta1 (or momentum) of every distinct group, as
    that update used them, ``loss_scale``, ``skipped_updates`` and ``clipped_share`` (of the last updates); ``grad_norm`` before
    clipping comes from the wrapper. Micro-batches that make no update add nothing; a skipped update adds its loss scale and
    count.

    Raises:
        ValueError: Before training, if the optimizer wrapper is not :class:`AccumulativeAmpOptimWrapper`.
    """

    # After MMEngine's RuntimeInfoHook, before its LoggerHook and before the schedulers move on.
    priority = 'NORMAL'

    def before_run(self, runner: Runner) -> None:
        """Check the wrapper."""
        if not isinstance(runner._train_loop, BaseLoop):
            return
        if not isinstance(runner.optim_wrapper, AccumulativeAmpOptimWrapper):
            raise ValueError(
                f'TrainingMonitorHook cannot tell the updates of {type(runner.optim_wrapper).__name__}; set '
                "optim_wrapper.type='bevfusion_plugin.AccumulativeAmpOptimWrapper'"
            )

    def before_train(self, runner: Runner) -> None:
        """Print the table and log where the training starts."""
        wrapper = runner.optim_wrapper
        self._plan = getattr(wrapper, 'batch_plan', None) or batch_plan_of(runner, wrapper)
        self._groups = distinct_groups(wrapper.optimizer.param_groups)
        lrs = [group.get('initial_lr', group['lr']) for group in self._groups.values()]
        ratio = getattr(wrapper, 'lr_ratio', None) or mmengine_ratio(runner)
        length, counts = runner.max_iters // runner.max_epochs, self._plan.accumulative_counts
        spans = [str(span_of(scheduler, counts, length, wrapper.flush)) for scheduler in schedulers_of(runner, '')]
        table = training_table(self._plan, lrs, ratio, length, runner.max_epochs, wrapper.flush, spans)
        runner.logger.info(f'{TITLE}\n{table}')
        self._set_up_log(runner)
        self._log(
            runner,
            dict(
                update=wrapper.updates,
                total_batch=self._plan.total_batch_size,
                **self._counters(wrapper, wrapper.scale),
                **group_values(self._groups),
            ),
        )
        self._start_clock()

    def _set_up_log(self, runner: Runner) -> None:
        """Show the present loss scale, which MMEngine would average because of its name, and the share of clipped updates."""
        processor = runner.log_processor
        shown = {entry['data_src'] for entry in processor.custom_cfg}
        wanted = [
            dict(data_src='loss_scale', method_name='current'),
            dict(data_src='clipped_share', method_name='mean', window_size=processor.window_size),
        ]
        processor.custom_cfg = processor.custom_cfg + [entry for entry in wanted if entry['data_src'] not in shown]

    def before_train_epoch(self, runner: Runner) -> None:
        """Leave validation and checkpoints between epochs out of the speed."""
        self._start_clock()

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Leave validation inside an epoch out of the speed."""
        self._start_clock()

    def _start_clock(self) -> None:
        self._since = time.perf_counter()
        self._timed = 0  # micro-batches since

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Log the update that this micro-batch made, if it made one."""
        wrapper = runner.optim_wrapper
        self._timed += 1
        if not wrapper.should_update():
            return
        logged = self._counters(wrapper, wrapper.window_scale)
        if wrapper.update_applied:
            at_once = self._plan.world_size * self._plan.samples_per_rank
            logged.update(
                update=wrapper.updates,
                total_batch=at_once * wrapper.window.size,
                clipped_share=int(wrapper.clipped),
                samples_per_sec=at_once * self._timed / (time.perf_counter() - self._since),
                **group_values(self._groups),
            )
        self._log(runner, logged)
        self._start_clock()

    @staticmethod
    def _counters(wrapper: AccumulativeAmpOptimWrapper, scale: float) -> dict[str, float]:
        counters = dict(skipped_updates=wrapper.skipped_updates)
        return counters if wrapper.loss_scaler is None else dict(counters, loss_scale=scale)

    @staticmethod
    def _log(runner: Runner, values: dict[str, float]) -> None:
        for name, value in values.items():
            runner.message_hub.update_scalar(f'train/{name}', value)
