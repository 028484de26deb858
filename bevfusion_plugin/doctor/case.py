"""A config under examination and what follows from it, each worked out once, when a rule asks for it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mmengine.config import Config
from torch import Tensor

from bevfusion_plugin.doctor.reading.config import (
    auto_scale_lr,
    count,
    dataset_wrappers,
    innermost_dataset,
    is_by_iteration,
    mapping,
    max_epochs,
    max_iters,
    optim_wrapper,
    samples_per_gpu,
    short_name,
)
from bevfusion_plugin.doctor.reading.nuscenes import LENGTH_KNOWN, balanced_length, known_samples, repeats
from bevfusion_plugin.doctor.reading.plain_pickle import read_plain
from bevfusion_plugin.doctor.schedule_trace import ScheduleTrace, trace_schedule
from bevfusion_plugin.plan.batch_plan import BatchPlan

QUICK_BYTES = 20 * 2**20  # an info file of this size is read in a fraction of a second
NOMINAL_BATCHES = 1000  # micro-batches of an epoch whose data are unknown: the shape of a schedule does not hang on it
QUICK_BATCHES = 500  # the most of an epoch where there is no time
MAX_ITERATIONS, QUICK_ITERATIONS = 3_000_000, 50_000  # about a minute of stepping, and a second


@dataclass
class Case:
    """What the rules look at.

    Attributes:
        cfg: The whole config; rules must not change it.
        gpus: Ranks asked for; None: those that the config plans.
        resume_from: Checkpoint to resume from, if any.
        quick: Leave out what takes seconds: building the model, reading checkpoints and large info files.
        starting: ``'train'`` or ``'test'`` where the run is about to start on this machine; None: it is planned, perhaps for another.
        ranks_here: Ranks that the launcher has started on this machine; None if that is unknown.
    """

    cfg: Config
    gpus: int | None = None
    resume_from: str | None = None
    quick: bool = False
    starting: str | None = None
    ranks_here: int | None = None

    @property
    def world_size(self) -> int:
        """Ranks of the planned training, W: those asked for, else the config's ``num_gpus``, and 1 where it names none."""
        return self.gpus or count(self.cfg.get('num_gpus')) or 1

    @cached_property
    def plan(self) -> BatchPlan | None:
        """The batch plan of the training; None where the config does not train.

        Raises:
            ValueError: If a batch size, an accumulation or the scaling rule makes no sense.
        """
        wrapper, samples = optim_wrapper(self.cfg), _batch_size(self.cfg)
        if not wrapper or samples is None:
            return None
        counts = wrapper.get('accumulative_counts', 1)
        scaling = auto_scale_lr(self.cfg)
        return BatchPlan.derive(
            self.world_size,
            samples_per_rank=samples,
            accumulative_counts=None if counts == 'auto' else counts,
            total_batch_size=wrapper.get('total_batch_size'),
            base_batch_size=scaling.get('base_batch_size'),
            rule=scaling.get('rule', 'linear'),
        )

    @cached_property
    def samples(self) -> int | None:
        """Samples an epoch as the sampler sees them (CBGS counted); None where it cannot be known."""
        wrappers = dataset_wrappers(self.cfg)
        names = {short_name(wrapper) for wrapper in wrappers}
        if names - LENGTH_KNOWN:
            return None
        infos = self.info_file('train')
        if infos is None:
            return known_samples(self.cfg)
        balanced = 'CBGSDataset' in names
        return repeats(wrappers) * (balanced_length(infos, innermost_dataset(self.cfg)) if balanced else len(infos['data_list']))

    def info_file(self, split: str) -> dict[str, Any] | None:
        """Content of a split's info file (mmdet3d's format 2); None if it is absent, another format, or too large for ``quick``.

        Args:
            split: ``'train'``, ``'val'`` or ``'test'``.
        """
        if split not in self._info_files:
            self._info_files[split] = self._read_info_file(info_path(innermost_dataset(self.cfg, split)))
        return self._info_files[split]

    @cached_property
    def _info_files(self) -> dict[str, dict[str, Any] | None]:
        return {}

    def _read_info_file(self, path: Path | None) -> dict[str, Any] | None:
        if path is None or path.suffix != '.pkl' or self.quick and os.path.getsize(path) > QUICK_BYTES:
            return None
        infos = read_plain(path)
        return infos if isinstance(mapping(infos).get('data_list'), list) else None

    @cached_property
    def batches_per_epoch(self) -> int | None:
        """Micro-batches an epoch and rank, L; None where the number of samples is unknown."""
        if self.samples is None or self.plan is None:
            return None
        loader = mapping(self.cfg.get('train_dataloader'))
        multiple = count(mapping(loader.get('sampler')).get('total_batch_size')) or 1  # SeekableSampler fills an epoch up to it
        samples = -(-self.samples // multiple) * multiple
        return max(1, self.plan.batches_per_epoch(samples, loader.get('drop_last') is True))

    @cached_property
    def trace(self) -> ScheduleTrace | None:
        """The learning rate and beta1 of every update, by stepping the real schedulers; None where there are none.

        Where the number of samples is unknown, an epoch counts 1,000 micro-batches; with ``quick`` it counts 500 at most, which
        keeps the shape of the curves.

        Raises:
            ValueError: If the training is too long to be stepped through.
        """
        length, most = self.batches_per_epoch or NOMINAL_BATCHES, MAX_ITERATIONS
        if self.quick:
            length, most = min(length, QUICK_BATCHES), QUICK_ITERATIONS
        iterations = max_iters(self.cfg) or (max_epochs(self.cfg) or 0) * length
        if iterations > most:
            raise ValueError(f'the training has {iterations:,} micro-batches; schedules are followed over {most:,} at most')
        return trace_schedule(self.cfg, length, self.world_size)

    @cached_property
    def model_state(self) -> Mapping[str, Tensor]:
        """The built model's parameters and buffers by name; those of a model on the meta device have no values."""
        from bevfusion_plugin.doctor.model_state import build_model_state

        return build_model_state(self.cfg)


def _batch_size(cfg: Config) -> Any:
    """``train_dataloader.batch_size`` as written, also a senseless one, or the batch sampler's; None if there is none."""
    loader = mapping(cfg.get('train_dataloader'))
    return samples_per_gpu(cfg) or loader.get('batch_size')


def info_path(dataset: dict[str, Any]) -> Path | None:
    """The data set's annotation file where it exists."""
    if not isinstance(dataset.get('ann_file'), str):
        return None
    path = Path(str(dataset.get('data_root') or '')) / dataset['ann_file']
    return path if path.is_file() else None


def trace_of(case: Case) -> ScheduleTrace | None:
    """The trace; None also where it cannot be made, which ``schedule-not-buildable`` reports once for all rules."""
    try:
        return case.trace
    except ValueError:
        return None


def knows_iterations(case: Case, trace: ScheduleTrace) -> bool:
    """Whether the trace counts real iterations: with unknown samples, or for a quick look, its epochs have a made-up length."""
    return case.batches_per_epoch == trace.batches_per_epoch or is_by_iteration(case.cfg)
