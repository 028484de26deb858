"""A few real iterations of a config on its own data: what no reading of the config can tell."""

from __future__ import annotations

import copy
import math
import tempfile
import time
from dataclasses import dataclass, field
from functools import partial

import torch
from mmengine.config import Config, ConfigDict
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor

from bevfusion_plugin.doctor.finding import Finding
from bevfusion_plugin.doctor.mend import leave_out_weights
from bevfusion_plugin.doctor.missing import missing_data
from bevfusion_plugin.doctor.reading.config import short_name

RULE = 'dry-run'
EVIDENCE = 'this run'
DATA_SHARE = 0.2  # of an iteration's time


@dataclass
class DryRun:
    """What a few iterations showed.

    Attributes:
        losses: Loss of every iteration.
        learning_rates: Learning rate of the first parameter group in every iteration.
        idle: Trainable parameters without a gradient in any iteration.
        data_share: Share of the time that went into waiting for data.
        notes: What had to be left out.
        failure: The error that ended the run; '' if none did.
    """

    losses: list[float] = field(default_factory=list)
    learning_rates: list[float] = field(default_factory=list)
    idle: list[str] = field(default_factory=list)
    data_share: float = 0.0
    notes: list[str] = field(default_factory=list)
    failure: str = ''


class _Enough(Exception):
    """The iterations asked for are done; loops of MMEngine have no other way out of an epoch."""


class _WatchHook(Hook):
    priority = 'LOWEST'

    def __init__(self, iterations: int, result: DryRun) -> None:
        self.iterations, self.result = iterations, result
        self.seen: set[str] = set()
        self.rate, self.waited, self.worked, self.last = 0.0, 0.0, 0.0, 0.0

    def before_train(self, runner: Runner) -> None:
        self.parameters = {name: value for name, value in runner.model.named_parameters() if value.requires_grad}
        for name, value in self.parameters.items():
            value.register_hook(partial(self._see, name))
        self.last = time.perf_counter()

    def _see(self, name: str, gradient: Tensor) -> None:
        self.seen.add(name)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: object = None) -> None:
        if self.result.losses:  # the first batch waits until the workers have started
            self.waited += time.perf_counter() - self.last
        self.last = time.perf_counter()
        self.rate = float(runner.optim_wrapper.param_groups[0]['lr'])

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: object, outputs: dict) -> None:
        self.worked += time.perf_counter() - self.last
        self.result.losses.append(float(torch.as_tensor(outputs['loss']).detach()))
        self.result.learning_rates.append(self.rate)
        self.result.idle = [name for name in self.parameters if name not in self.seen]
        self.result.data_share = self.waited / (self.waited + self.worked)
        if len(self.result.losses) >= self.iterations:
            raise _Enough
        self.last = time.perf_counter()


def dry_run(cfg: Config, iterations: int) -> DryRun | None:
    """``iterations`` iterations of ``cfg`` on its own training data; None if they are not there.

    Nothing is written, validated or saved. Weights that do not exist are left out, with a note.

    Args:
        cfg: The whole config; it is not changed.
        iterations: Micro-batches, at least 1.

    Raises:
        ValueError: If ``iterations`` is below 1.
    """
    if iterations < 1:
        raise ValueError(f'--dry-run needs at least 1 iteration, got {iterations}')
    if any(missing.place == 'train_dataloader' for missing in missing_data(cfg, training=True)):
        return None
    result = DryRun()
    with tempfile.TemporaryDirectory() as folder:
        try:
            runner = Runner.from_cfg(_shortened(cfg, folder, result))
            runner.register_hook(_WatchHook(iterations, result), priority='LOWEST')
            runner.train()
        except _Enough:
            pass
        except Exception as error:  # whatever ends the training would end here
            result.failure = f'{type(error).__name__}: {error}'
    return result


def _shortened(cfg: Config, folder: str, result: DryRun) -> Config:
    """A copy of ``cfg`` that trains quietly, on one process, and leaves nothing behind."""
    cfg = Config(copy.deepcopy(cfg.to_dict()), filename=cfg.filename, format_python_code=False)
    result.notes += [f'{missing.what}; this part started from random weights' for missing in leave_out_weights(cfg)]
    cfg.update(
        work_dir=folder,
        experiment_name=f'dry_run_{time.time_ns()}',
        launcher='none',
        resume=False,
        log_level='ERROR',
        val_cfg=None,
        val_dataloader=None,
        val_evaluator=None,
        test_cfg=None,
        test_dataloader=None,
        test_evaluator=None,
        visualizer=ConfigDict(type='mmengine.Visualizer', vis_backends=[dict(type='mmengine.LocalVisBackend')]),
    )
    cfg.setdefault('default_hooks', ConfigDict())
    cfg.default_hooks.pop('visualization', None)
    cfg.default_hooks['checkpoint'] = None
    cfg.custom_hooks = [hook for hook in cfg.get('custom_hooks') or [] if 'Picture' not in short_name(hook)]
    return cfg


def dry_run_findings(result: DryRun | None) -> list[Finding]:
    """What the iterations showed to be wrong.

    Args:
        result: What :func:`dry_run` gave.
    """
    if result is None:
        return [
            Finding(RULE, 'info', 'no iteration was run: the training data are not there', 'bring the data (see missing-data)', EVIDENCE)
        ]
    findings = []
    if result.failure:
        findings.append(
            Finding(
                RULE,
                'error',
                f'the training stopped in iteration {len(result.losses) + 1}: {result.failure}',
                'correct what the error names; `python tools/train.py` shows where it was raised',
                EVIDENCE,
            )
        )
    bad = [index for index, loss in enumerate(result.losses) if not math.isfinite(loss)]
    if bad:
        findings.append(
            Finding(
                RULE,
                'error',
                f'the loss is {result.losses[bad[0]]} in iteration {bad[0] + 1} of {len(result.losses)}',
                'lower the learning rate, train in float32, or look at the data of this iteration',
                EVIDENCE,
            )
        )
    if result.idle:
        findings.append(
            Finding(
                RULE,
                'error',
                f'{len(result.idle)} trainable parameters got no gradient in {len(result.losses)} iterations, '
                f'the first: {", ".join(result.idle[:3])}',
                'take them out of the model, set requires_grad=False, or find_unused_parameters=True for DDP',
                EVIDENCE,
            )
        )
    if result.data_share > DATA_SHARE and len(result.losses) > 1:
        findings.append(
            Finding(
                RULE,
                'warning',
                f'{result.data_share:.0%} of the time went into waiting for data',
                'use more workers or faster storage',
                EVIDENCE,
            )
        )
    return findings + [Finding(RULE, 'info', note, 'name the file to examine the real start', EVIDENCE) for note in result.notes]
