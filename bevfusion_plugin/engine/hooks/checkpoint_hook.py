"""MMEngine's checkpoints, but none is lost to a kill, a full disk or a broken file."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_reduce, barrier, get_comm_device, get_world_size, is_main_process, master_only
from mmengine.hooks import CheckpointHook as MMEngineCheckpointHook
from mmengine.runner import BaseLoop, Runner

from bevfusion_plugin.engine.accumulation.runner_plan import wrappers_of
from bevfusion_plugin.engine.checkpoints.file_backend import WHOLE_FILES
from bevfusion_plugin.engine.checkpoints.resuming import POINTER, newest_whole
from bevfusion_plugin.engine.checkpoints.stop_signal import EXIT_STATUS, StopSignal, TrainingStopped, keep_workers
from bevfusion_plugin.engine.checkpoints.whole_file import UNFINISHED
from bevfusion_plugin.plan.checked_settings import positive, switch, whole_number
from bevfusion_plugin.registry import HOOKS

INSIDE = 'inside_epoch.pth'


@HOOKS.register_module()
class CheckpointHook(MMEngineCheckpointHook):
    """MMEngine's CheckpointHook with its arguments, except for when and how it writes and deletes.

    A checkpoint is written aside, flushed to the disk and renamed, with its size and SHA-256 in ``<name>.json`` beside it. What
    ``max_keep_ckpts`` and ``save_best`` no longer keep is deleted after the new one is there. A run with ``resume=True`` and no
    ``load_from`` goes on from the newest checkpoint of its work dir that is whole. On remote storage, or with ``backend_args``
    of your own, files are written as MMEngine does.

    None is written inside a window of accumulated micro-batches: it waits for the window's end. There a training also stops that
    was sent SIGTERM or SIGINT (Ctrl-C), all ranks together, with exit status 0 or 130, after a checkpoint ``inside_epoch.pth``;
    a second signal ends it at once, and so does one during validation, after which there is nothing to save.

    Args:
        save_every: Minutes after which ``inside_epoch.pth`` is written anew; None: only when the training is told to stop.
        **kwargs: MMEngine's arguments.

    Raises:
        ValueError: If ``save_every`` is no number > 0, or one of MMEngine's arguments cannot be or is none.

    Source:
        MMEngine 0.10.7, CheckpointHook.
    """

    backend_args: dict[str, Any] | None
    best_ckpt_path: str | None
    best_ckpt_path_dict: dict[str | None, str | None]

    def __init__(self, interval: int = -1, by_epoch: bool = True, *args: Any, save_every: float | None = None, **kwargs: Any) -> None:
        whole_number('interval', interval, -1, mend='-1 or 0 saves at no interval')
        whole_number('save_begin', kwargs.get('save_begin', 0), 0)
        super().__init__(interval, by_epoch, *args, **kwargs)
        if self.args:
            raise ValueError(f'CheckpointHook has no arguments {self.args!r}; look for a typing error')
        whole_number('max_keep_ckpts', self.max_keep_ckpts, -1, mend='-1 keeps all')
        for name in ('by_epoch', 'save_optimizer', 'save_param_scheduler', 'save_last'):
            switch(name, getattr(self, name))
        self.save_every = None if save_every is None else positive('save_every', save_every, mend='it is in minutes')
        self._signal = StopSignal()
        self._is_due = False  # by iterations, once the window ends
        self._saved_at = 0.0
        self._saved_iteration = -1

    def before_run(self, runner: Runner) -> None:
        """Name the checkpoint that the run resumes from, in place of what ``last_checkpoint`` says.

        Raises:
            BrokenCheckpoint: If the work dir has checkpoints, and none is whole.
        """
        if runner._resume and runner._load_from is None:
            path, passed_over = newest_whole(runner.work_dir)
            for reason in passed_over:
                runner.logger.warning(f'Passed over: {reason}')
            runner._load_from = path and str(path)
        if isinstance(runner._train_loop, BaseLoop):
            keep_workers(runner.train_dataloader)

    def before_train(self, runner: Runner) -> None:
        """Take our way of writing, and clear away what a killed run left unfinished."""
        folder = str(self.out_dir or runner.work_dir)
        if '://' not in folder and self.backend_args is None and self.file_client_args is None:
            self.backend_args = dict(backend=WHOLE_FILES)
        super().before_train(runner)
        if self.backend_args == dict(backend=WHOLE_FILES):
            clear_unfinished(Path(self.out_dir))
            best = self._exchange_best({})
            self._exchange_best({key: path_inside(self.out_dir, path) for key, path in best.items()})
        self._saved_at = time.monotonic()
        self._signal.listen(type(runner).train)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """At a window's end write what is due by iterations, by the clock, or because the training is to stop.

        Raises:
            TrainingStopped: After the checkpoint, if a signal told any of the ranks to stop.
        """
        if not self.by_epoch:
            self._is_due |= (
                self.every_n_train_iters(runner, self.interval, self.save_begin) or self.save_last and self.is_last_train_iter(runner)
            )
        if not all(wrapper.should_update() for wrapper in wrappers_of(runner).values()):
            return
        if self._is_due:
            runner.logger.info(f'Saving checkpoint at {runner.iter + 1} iterations')
            self._save_checkpoint(runner)
        self._is_due = False
        stop, is_late = self._agreed()
        if stop or is_late:
            self._save_inside(runner, runner.epoch, runner.iter + 1)
        if stop:
            self._stop(runner, stop)

    def _agreed(self) -> tuple[int, bool]:
        """The signal that any rank received (0: none), and whether the clock of any asks for a checkpoint."""
        late = self.save_every is not None and time.monotonic() - self._saved_at > 60 * self.save_every
        asked = [int(self._signal.received or 0), int(late)]
        if get_world_size() > 1:
            of_all = torch.tensor(asked, device=get_comm_device())
            all_reduce(of_all, 'max')
            asked = of_all.tolist()
        return asked[0], bool(asked[1])

    def _save_inside(self, runner: Runner, epoch: int, iterations: int) -> None:
        """Write ``inside_epoch.pth`` over the one before, which is there until the new one is; none where one is there already."""
        self._saved_at = time.monotonic()
        if self._saved_iteration == iterations:
            return
        self._saved_iteration = iterations
        runner.save_checkpoint(
            self.out_dir,
            INSIDE,
            meta=dict(epoch=epoch, iter=iterations),
            backend_args=self.backend_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
        )
        path = self.file_backend.join_path(self.out_dir, INSIDE)
        runner.logger.info(f'Saved {path} after {iterations} iterations')
        if is_main_process():
            Path(runner.work_dir, POINTER).write_text(path)

    def _stop(self, runner: Runner, number: int) -> None:
        self._signal.leave()
        barrier()  # a launcher ends all ranks with the first: the main one must have written everything
        runner.logger.info(f'Stopped by {signal.Signals(number).name} after {runner.iter + 1} iterations; --resume goes on from there')
        raise TrainingStopped(EXIT_STATUS[signal.Signals(number)])

    def before_val(self, runner: Runner) -> None:
        """In a training: save what no checkpoint has yet, and let a signal end the process at once while validation runs."""
        if not self._signal.is_listening:
            return
        if all(wrapper.should_update() for wrapper in wrappers_of(runner).values()):
            self._save_inside(runner, runner.epoch, runner.iter)
        self._signal.leave()

    def after_val(self, runner: Runner) -> None:
        """Listen to signals again."""
        if isinstance(runner._train_loop, BaseLoop):
            self._signal.listen(type(runner).train)

    def after_train(self, runner: Runner) -> None:
        """Leave the signals alone again; MMEngine's published checkpoints."""
        self._signal.leave()
        super().after_train(runner)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict[str, Any]) -> None:
        outdated = None
        if 0 < self.max_keep_ckpts == len(self.keep_ckpt_ids) and self.keep_ckpt_ids[-1] != step:
            outdated = self.keep_ckpt_ids.popleft()  # so that MMEngine, which would delete it now, does not see it
        super()._save_checkpoint_with_step(runner, step, meta)
        self._saved_iteration = meta['iter']
        if outdated is not None:
            self._delete(self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(outdated)))

    def _save_best_checkpoint(self, runner: Runner, metrics: dict[str, Any]) -> None:
        before = self._exchange_best({})
        super()._save_best_checkpoint(runner, metrics)
        written = {key: path for key, path in self._exchange_best({}).items() if path}
        self._exchange_best({**before, **written})
        for key, path in before.items():
            if path and written.get(key, path) != path:
                self._delete(path)

    def _exchange_best(self, paths: dict[str | None, str | None]) -> dict[str | None, str | None]:
        """Set the best checkpoints' paths, by metric (None where there is one metric), and give those that were set."""
        if not self.save_best:
            return {}
        before: dict[str | None, str | None]
        if len(self.key_indicators) == 1:
            before, self.best_ckpt_path = {None: self.best_ckpt_path}, paths.get(None)
        else:
            before = dict(self.best_ckpt_path_dict)
            self.best_ckpt_path_dict = {key: paths.get(key) for key in before}
        return before

    def _delete(self, path: str) -> None:
        if is_main_process() and self.file_backend.isfile(path):
            self.file_backend.remove(path)


@master_only
def clear_unfinished(folder: Path) -> None:
    """Remove, on the main process, files that nobody finished writing."""
    for path in folder.glob(f'*{UNFINISHED}'):
        path.unlink(missing_ok=True)


def path_inside(folder: str, path: str | None) -> str | None:
    """The file of that name in ``folder``; None if there is none: in a copied work dir the path leads to the original's."""
    inside = path and Path(folder) / Path(path).name
    return str(inside) if inside and inside.is_file() else None
