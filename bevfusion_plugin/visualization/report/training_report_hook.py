"""Keeps the training report up to date while the training runs."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import BaseLoop, Runner

from bevfusion_plugin.plan.checked_settings import file_path
from bevfusion_plugin.registry import HOOKS
from bevfusion_plugin.visualization.report.page import write_report
from bevfusion_plugin.visualization.report.run_record import Diagnosis, diagnose, read_run


@HOOKS.register_module()
class TrainingReportHook(Hook):
    """Writes the report of ``tools/report.py`` after every validation and at the end of the training.

    A report that cannot be written is a warning: the training goes on. The doctor is asked once, as the config does not change.

    Args:
        out: File to write; a relative path starts in the work dir.
    """

    # The last one: the loggers, the pictures and the divergence sentinel have written by then.
    priority = 'LOWEST'

    def __init__(self, out: str = 'report.html') -> None:
        self.out = file_path('out', out)
        self._diagnosis: Diagnosis | None = None

    def after_val_epoch(self, runner: Runner, metrics: dict[str, Any] | None = None) -> None:
        """Write the page anew, unless this is a validation alone."""
        if isinstance(runner._train_loop, BaseLoop):
            self._refresh(runner)

    def after_divergence(self, runner: Runner) -> None:
        """Write the page anew, with what was seen: called by DivergenceSentinelHook, which may end the training then."""
        self._refresh(runner)

    def after_train(self, runner: Runner) -> None:
        """Write the page for the last time."""
        self._refresh(runner)

    def _refresh(self, runner: Runner) -> None:
        if not is_main_process():
            return
        try:
            record = read_run(runner.work_dir)
            self._diagnosis = self._diagnosis or diagnose(record)
            write_report([record], [self._diagnosis], Path(runner.work_dir) / self.out)
        except Exception as error:  # hours of training are worth more than a page about them
            warnings.warn(f'the training report was not written: {type(error).__name__}: {error}')
