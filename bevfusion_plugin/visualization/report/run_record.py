"""Everything a training left in its work dir, put together from all its starts, as the report shows it.

Letters: W ranks, b samples a rank a micro-batch, A micro-batches a window, L micro-batches an epoch.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from mmengine.config import Config

from bevfusion_plugin.doctor.case import Case
from bevfusion_plugin.doctor.examination import examine
from bevfusion_plugin.doctor.finding import Finding
from bevfusion_plugin.doctor.reading.config import learning_rate, mapping, max_epochs, number, optim_wrapper, scales_lr
from bevfusion_plugin.doctor.reading.plan_settings import flush_of
from bevfusion_plugin.plan.batch_plan import BatchPlan, count_updates
from bevfusion_plugin.visualization.evaluation_scores import headline
from bevfusion_plugin.visualization.run_log import Evaluation, RunLog, TextLog, read_run_log, read_text_log, run_folders
from bevfusion_plugin.visualization.test_scores import read_test_scores

Scalars = dict[str, list[tuple[int, float]]]


@dataclass(frozen=True)
class Diagnosis:
    """The doctor's findings about a run's config, or why there are none."""

    findings: tuple[Finding, ...] = ()
    problem: str = ''


@dataclass(frozen=True)
class RunRecord:
    """A training.

    Attributes:
        name: What it is called on the page.
        work_dir: Where it lies.
        starts: The timestamps of its runs that logged, oldest first.
        training: Series of (iteration, value) by name.
        evaluations: Its validations in order.
        text: What the text logs say.
        config: The config of the newest start; None if it cannot be had.
        config_problem: Why it cannot be had.
        pictures: Pictures of predictions, by name.
        divergence: What DivergenceSentinelHook wrote; None if it wrote nothing.
        tests: What tools/test.py measured, by condition.
    """

    name: str
    work_dir: Path
    starts: tuple[str, ...]
    training: Scalars
    evaluations: tuple[Evaluation, ...]
    text: TextLog
    config: Config | None
    config_problem: str
    pictures: tuple[Path, ...]
    divergence: dict[str, Any] | None
    tests: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def diverged(self) -> bool:
        """Whether the sentinel reported a divergence that is not over."""
        return self.divergence is not None and self.divergence.get('over') is None

    @property
    def last_iteration(self) -> int:
        """The last iteration that was logged."""
        return max(points[-1][0] for points in self.training.values())

    @cached_property
    def case(self) -> Case | None:
        """The config as the doctor sees it; None if there is none. The model is not built: it may be training just now."""
        return None if self.config is None else Case(self.config, self.text.world_size, quick=True)

    @cached_property
    def plan(self) -> BatchPlan | None:
        """The batch plan its config and number of ranks give; None if they give none."""
        try:
            return self.case.plan if self.case else None
        except ValueError:  # a senseless setting; the doctor's findings name it
            return None

    @property
    def clip_norm(self) -> float | None:
        """The gradient norm its updates are clipped to; None if they are not, or it is not known."""
        return number(mapping(optim_wrapper(self.config).get('clip_grad')).get('max_norm')) if self.config else None

    @property
    def plan_rows(self) -> tuple[tuple[str, str], ...]:
        """(name, value): the table the run logged, or what its config says; empty if neither is there."""
        return self.text.plan_rows or tuple(_rows_from_config(self))

    @property
    def updates(self) -> int | None:
        """Optimizer steps made: as logged, or from the iterations and A."""
        if 'update' in self.training:
            return int(self.training['update'][-1][1])
        return _updates_from_iterations(self, self.plan) if self.plan else None

    @property
    def total_batch(self) -> str | None:
        """Samples an update sees, with the arithmetic; None if it is not known."""
        return dict(self.plan_rows).get('total batch')

    def summary(self) -> dict[str, Any]:
        """The run in a row: what a comparison starts with. None: not known."""
        scores = headline(self.evaluations[-1].values) if self.evaluations else {}
        return dict(
            name=self.name,
            iterations=self.last_iteration,
            updates=self.updates,
            total_batch=self.total_batch,
            final_loss=self.training['loss'][-1][1] if 'loss' in self.training else None,
            mAP=scores.get('mAP'),
            NDS=scores.get('NDS'),
        )


def read_run(work_dir: str | Path) -> RunRecord:
    """The training in ``work_dir``.

    Args:
        work_dir: ``work_dir`` of an MMEngine run, made with or without this package. Several starts are joined: where a later
            one begins, what an earlier one logged from that iteration on is dropped.

    Raises:
        FileNotFoundError: If there is no such folder, or no log of a training in it.
        ValueError: If a log or ``divergence.json`` is damaged.
    """
    folder = Path(work_dir)
    if not folder.is_dir():
        raise FileNotFoundError(f'there is no folder {folder}; give the work_dir of a training')
    runs = run_folders(folder)
    logs = [log for log in map(read_run_log, runs) if log is not None]
    if not logs:
        raise FileNotFoundError(
            f'there is no training log in {folder} ({len(runs)} runs found); give the work_dir of an '
            "MMEngine run whose visualizer.vis_backends include dict(type='LocalVisBackend')"
        )
    training, evaluations = join_starts(logs)
    config, problem = read_config(logs[-1].folder)
    return RunRecord(
        folder.resolve().name,
        folder,
        tuple(log.folder.name for log in logs),
        training,
        evaluations,
        _newest_texts([read_text_log(log.folder) for log in logs]),
        config,
        problem,
        tuple(sorted((folder / 'pictures').glob('*.png'))),
        read_divergence(folder),
        read_test_scores(folder),
    )


def read_runs(work_dirs: Sequence[str | Path]) -> list[RunRecord]:
    """The trainings in ``work_dirs``, each under a name of its own: its folder's, with as many parents as that takes.

    Raises:
        FileNotFoundError: If one is no folder or has no log.
        ValueError: If a log is damaged, or a folder given twice.
    """
    paths = [Path(work_dir).resolve() for work_dir in work_dirs]
    twice = {str(given) for given, path in zip(work_dirs, paths) if paths.count(path) > 1}
    if twice:
        raise ValueError(f'these name the same folder: {", ".join(sorted(twice))}; give each work_dir once')
    depth = 1
    while len({path.parts[-depth:] for path in paths}) < len(paths):
        depth += 1
    return [replace(read_run(given), name='/'.join(path.parts[-depth:])) for given, path in zip(work_dirs, paths)]


def join_starts(logs: Sequence[RunLog]) -> tuple[Scalars, tuple[Evaluation, ...]]:
    """The series and the validations of a training that was started several times, ``logs`` oldest first.

    Where a start begins, everything that an earlier one logged from that iteration on belongs to a training that was given up.
    """
    scalars: Scalars = {}
    evaluations: list[Evaluation] = []
    for log in logs:
        begin = log.training[0][0]
        scalars = {name: [point for point in points if point[0] < begin] for name, points in scalars.items()}
        evaluations = [each for each in evaluations if each.iteration < begin]
        for step, values in log.training:
            for name, value in values.items():
                scalars.setdefault(name, []).append((step, value))
        evaluations += log.evaluations
    return {name: points for name, points in scalars.items() if points}, tuple(evaluations)


def read_config(run: Path) -> tuple[Config | None, str]:
    """(The config that the visualizer stored in ``run``, '') or (None, why there is none)."""
    path = run / 'vis_data' / 'config.py'
    if not path.is_file():
        return None, f'the run stored no config: there is no {run.name}/vis_data/config.py'
    try:
        return Config.fromfile(str(path), import_custom_modules=False, format_python_code=False), ''
    except Exception as error:  # it is a Python file: anything can be raised, and the curves are worth showing all the same
        return None, f'{run.name}/vis_data/config.py cannot be read: {type(error).__name__}: {error}'


def read_divergence(work_dir: Path) -> dict[str, Any] | None:
    """What the divergence sentinel wrote into ``work_dir``; None if it wrote nothing.

    Raises:
        ValueError: If ``divergence.json`` is no JSON object.
    """
    path = work_dir / 'divergence.json'
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding='utf-8'))
    except json.JSONDecodeError as error:
        raise ValueError(f'{path} is damaged ({error}); remove it') from error
    if not isinstance(found, dict):
        raise ValueError(f'{path} must hold a JSON object, got {type(found).__name__}; remove it')
    return found


def diagnose(record: RunRecord) -> Diagnosis:
    """What the doctor finds in the config of ``record``."""
    if record.case is None:
        return Diagnosis(problem=record.config_problem)
    try:
        return Diagnosis(tuple(examine(record.case)))
    except Exception as error:  # a rule that fails must not cost the page; it is named on it
        return Diagnosis(problem=f'the doctor could not examine this config: {type(error).__name__}: {error}')


def _newest_texts(texts: Sequence[TextLog]) -> TextLog:
    """Each thing from the newest log that says it."""
    newest = list(reversed(texts))

    def first(name: str) -> Any:
        return next((getattr(text, name) for text in newest if getattr(text, name)), getattr(TextLog, name))

    return TextLog(first('environment'), first('plan_rows'), first('world_size'), first('batches_per_epoch'))


def _rows_from_config(record: RunRecord) -> list[tuple[str, str]]:
    plan = record.plan
    if plan is None:
        return []
    rows = [
        ('ranks', f'{plan.world_size}' + ('' if record.text.world_size else ' (assumed, the log does not say)')),
        ('samples a rank a micro-batch', f'{plan.samples_per_rank}'),
        ('micro-batches a window', f'{plan.accumulative_counts}'),
        ('total batch', f'{plan}'),
        ('base batch', f'{plan.base_batch_size or "not given"}'),
        ('LR scaled to the batch', plan.rule if scales_lr(record.config) else 'no'),
    ]
    lr, length, epochs = learning_rate(record.config), record.text.batches_per_epoch, max_epochs(record.config)
    if lr is not None:
        rows.append(('LR in the config', f'{lr:.4g}'))
    if length:
        rows.append(('updates an epoch', f'{plan.updates_per_epoch(length)}'))
    if length and epochs:
        rows.append(('updates in all', f'{plan.total_updates(epochs, length, flush_of(optim_wrapper(record.config)))}'))
    return rows


def _updates_from_iterations(record: RunRecord, plan: BatchPlan) -> int:
    """Windows that are closed: those of whole epochs, or of the whole training, with their short last one."""
    A, length, done = plan.accumulative_counts, record.text.batches_per_epoch, record.last_iteration
    if not length:
        return done // A
    flush = flush_of(optim_wrapper(record.config))
    finished = done == length * (max_epochs(record.config) or 0)
    closed = done - done % length if flush == 'epoch' else done * finished
    return (count_updates(closed, A, length, flush) if closed else 0) + (done - closed) // A
