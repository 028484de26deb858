"""What connects :class:`AccumulativeAmpOptimWrapper` with a Runner's epochs, end and checkpoints."""
from __future__ import annotations

import copy
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import IterBasedTrainLoop, Runner

from bevfusion_plugin.engine.accumulation.optim_wrapper import AccumulativeAmpOptimWrapper
from bevfusion_plugin.engine.accumulation.runner_plan import accumulating_wrappers


class WindowHook(Hook):
    """Base of our hooks; to list any of them is enough, and several do no more than one.

    Tells the wrapper the length of an epoch, makes the last update of a training that stops inside a window, and stores a
    checkpoint that falls inside a window as of the window's start, from where a resumed run takes the same micro-batches again.
    (The last needs a loop over iterations: MMEngine's loop over epochs always resumes at the start of one.)
    """

    def __init__(self) -> None:
        self._window_start: dict[str, Any] = {}

    def before_run(self, runner: Runner) -> None:
        """Let the wrapper log where this Runner logs, not where the one built last does."""
        for wrapper in accumulating_wrappers(runner):
            wrapper.message_hub = runner.message_hub

    def before_train(self, runner: Runner) -> None:
        """Tell the wrapper how long an epoch is."""
        if isinstance(runner.optim_wrapper, AccumulativeAmpOptimWrapper):
            runner.optim_wrapper.batches_per_epoch = runner.max_iters // runner.max_epochs

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Remember LR, momentum and schedulers at a window's start: schedulers of MMEngine move on inside it."""
        wrapper = runner.optim_wrapper
        if _can_rewind(runner) and wrapper.window_position == 0:
            groups = [{key: value for key, value in group.items() if key != 'params'} for group in wrapper.param_groups]
            schedulers = [scheduler.state_dict() for scheduler in runner.param_schedulers or []]
            self._window_start = dict(groups=groups, schedulers=schedulers)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Store the window's start instead of its middle; parameters and optimizer state are the same there."""
        wrapper = runner.optim_wrapper
        if not (_can_rewind(runner) and wrapper.window_position and self._window_start):
            return
        checkpoint['meta']['iter'] = wrapper.inner_count - wrapper.window_position
        runner.logger.info(f'The checkpoint lies inside a window and is stored as of its start, iteration '
                           f'{checkpoint["meta"]["iter"]}.')
        if 'optimizer' in checkpoint:
            state = checkpoint['optimizer']
            state['window']['position'] = 0
            stored = state['param_groups'] + ([state['base_param_settings']] if 'base_param_settings' in state else [])
            for group, settings in zip(stored, self._window_start['groups']):
                group.update(settings)
        if 'param_schedulers' in checkpoint:
            checkpoint['param_schedulers'] = copy.deepcopy(self._window_start['schedulers'])

    def after_train(self, runner: Runner) -> None:
        """Make the update of a window that is still open, because training was stopped early."""
        for wrapper in accumulating_wrappers(runner):
            if wrapper.flush_window():
                runner.logger.info('Training stopped inside a window; its update was made from the micro-batches it had.')


def _can_rewind(runner: Runner) -> bool:
    return (isinstance(runner.train_loop, IterBasedTrainLoop)
            and isinstance(runner.optim_wrapper, AccumulativeAmpOptimWrapper))
