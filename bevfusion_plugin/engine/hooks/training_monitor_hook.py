"""What an update was made of, in the log and every visualisation backend."""
from __future__ import annotations

import time
from typing import Any

from mmengine.runner import BaseLoop, Runner

from bevfusion_plugin.engine.hooks.auto_scale_lr_hook import batch_plan_of, schedulers_of
from bevfusion_plugin.engine.schedules.lr_scaling import mmengine_ratio
from bevfusion_plugin.engine.accumulation.optim_wrapper import AccumulativeAmpOptimWrapper
from bevfusion_plugin.plan.training_table import plan_table
from bevfusion_plugin.engine.accumulation.window_hook import WindowHook
from bevfusion_plugin.registry import HOOKS


@HOOKS.register_module()
class TrainingMonitorHook(WindowHook):
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
            raise ValueError(f'TrainingMonitorHook cannot tell the updates of {type(runner.optim_wrapper).__name__}; set '
                             "optim_wrapper.type='bevfusion_plugin.AccumulativeAmpOptimWrapper'")
        super().before_run(runner)

    def before_train(self, runner: Runner) -> None:
        """Print the table and log where the training starts."""
        super().before_train(runner)
        wrapper = runner.optim_wrapper
        self._plan = getattr(wrapper, 'batch_plan', None) or batch_plan_of(runner, wrapper)
        self._groups = distinct_groups(wrapper.optimizer.param_groups)
        lrs = [group.get('initial_lr', group['lr']) for group in self._groups.values()]
        ratio = getattr(wrapper, 'lr_ratio', None) or mmengine_ratio(runner)
        table = plan_table(self._plan, lrs, ratio, wrapper.batches_per_epoch, runner.max_epochs, wrapper.flush,
                           schedulers_of(runner, ''))
        runner.logger.info(f'What an update is:\n{table}')
        self._set_up_log(runner)
        self._log(runner, dict(update=wrapper.updates, total_batch=self._plan.total_batch_size, **self._counters(wrapper),
                               **group_values(self._groups)))
        self._start_clock()

    def _set_up_log(self, runner: Runner) -> None:
        """Show the present loss scale, which MMEngine would average because of its name, and the share of clipped updates."""
        processor = runner.log_processor
        shown = {entry['data_src'] for entry in processor.custom_cfg}
        wanted = [dict(data_src='loss_scale', method_name='current'),
                  dict(data_src='clipped_share', method_name='mean', window_size=processor.window_size)]
        processor.custom_cfg = processor.custom_cfg + [entry for entry in wanted if entry['data_src'] not in shown]

    def before_train_epoch(self, runner: Runner) -> None:
        """Leave validation and checkpoints between epochs out of the speed."""
        self._start_clock()

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Leave validation inside an epoch out of the speed."""
        self._start_clock()

    def _start_clock(self) -> None:
        self._since, self._batches = time.perf_counter(), 0

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Log the update that this micro-batch made, if it made one."""
        wrapper = runner.optim_wrapper
        self._batches += 1
        if not wrapper.should_update():
            return
        logged = self._counters(wrapper)
        if wrapper.update_applied:
            samples = self._plan.world_size * self._plan.samples_per_rank * self._batches
            logged.update(update=wrapper.updates, total_batch=samples, clipped_share=int(wrapper.clipped),
                          samples_per_sec=samples / (time.perf_counter() - self._since), **group_values(self._groups))
        self._log(runner, logged)
        self._start_clock()

    @staticmethod
    def _counters(wrapper: AccumulativeAmpOptimWrapper) -> dict[str, float]:
        counters = dict(skipped_updates=wrapper.skipped_updates)
        return counters if wrapper.loss_scaler is None else dict(counters, loss_scale=wrapper.scale)

    @staticmethod
    def _log(runner: Runner, values: dict[str, float]) -> None:
        for name, value in values.items():
            runner.message_hub.update_scalar(f'train/{name}', value)


def momentum_of(group: dict[str, Any]) -> tuple[str, float] | None:
    """('beta1', its value) of an Adam group, ('momentum', its value) of an SGD group, None for others."""
    if 'betas' in group:
        return 'beta1', group['betas'][0]
    return ('momentum', group['momentum']) if 'momentum' in group else None


def distinct_groups(groups: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """The first group, by its index, of those that share learning rate and momentum."""
    found: dict[tuple, int] = {}
    for index, group in enumerate(groups):
        found.setdefault((group.get('initial_lr'), group['lr'], momentum_of(group)), index)
    return {index: groups[index] for index in found.values()}


def group_values(groups: dict[int, dict[str, Any]]) -> dict[str, float]:
    """``group<i>_lr`` and ``group<i>_beta1`` of each; of a single group ``beta1`` alone, since MMEngine logs its ``lr``."""
    values: dict[str, float] = {}
    for index, group in groups.items():
        prefix = f'group{index}_' if len(groups) > 1 else ''
        if prefix:
            values[f'{prefix}lr'] = group['lr']
        if momentum_of(group):
            name, value = momentum_of(group)
            values[prefix + name] = value
    return values
