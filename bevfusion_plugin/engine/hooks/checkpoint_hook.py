"""MMEngine's checkpoints, but none is lost to a kill, a full disk or a broken file."""
from __future__ import annotations

from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process, master_only
from mmengine.hooks import CheckpointHook as MMEngineCheckpointHook
from mmengine.runner import Runner

from bevfusion_plugin.engine.checkpoints.file_backend import WHOLE_FILES
from bevfusion_plugin.engine.checkpoints.resuming import newest_whole
from bevfusion_plugin.engine.checkpoints.whole_file import UNFINISHED
from bevfusion_plugin.registry import HOOKS


@HOOKS.register_module()
class CheckpointHook(MMEngineCheckpointHook):
    """MMEngine's CheckpointHook with its arguments, except for when and how it writes and deletes.

    A checkpoint is written aside, flushed to the disk and renamed, with its size and SHA-256 in ``<name>.json`` beside it. What
    ``max_keep_ckpts`` and ``save_best`` no longer keep is deleted after the new one is there. A run with ``resume=True`` and no
    ``load_from`` goes on from the newest checkpoint of its work dir that is whole. On remote storage, or with ``backend_args``
    of your own, files are written as MMEngine does.

    Source:
        MMEngine 0.10.7, CheckpointHook.
    """

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

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict[str, Any]) -> None:
        outdated = None
        if 0 < self.max_keep_ckpts == len(self.keep_ckpt_ids) and self.keep_ckpt_ids[-1] != step:
            outdated = self.keep_ckpt_ids.popleft()  # so that MMEngine, which would delete it now, does not see it
        super()._save_checkpoint_with_step(runner, step, meta)
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
