"""Pipelines with the place where they stand in the config, so that a rule can say what to write there instead."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from mmengine.config import Config

from bevfusion_plugin.doctor.reading.config import SPLITS, datasets_with_keys, short_name

PASTE = 'ObjectSample'  # what pastes objects, mmdet3d's and ours
Step = dict[str, Any]


@dataclass(frozen=True)
class Pipeline:
    """The transforms of one split's innermost data set.

    Attributes:
        split: ``'train'``, ``'val'`` or ``'test'``.
        key: Dotted place in the config.
        steps: The transforms in order.
    """

    split: str
    key: str
    steps: tuple[Step, ...]

    @property
    def all_steps(self) -> list[Step]:
        """The steps, those inside other steps too."""
        return list(_walk(self.steps))

    def named(self, *names: str) -> list[Step]:
        """The steps called so, whatever package they are from."""
        return [step for step in self.all_steps if short_name(step) in names]

    def rewritten(self, change: Callable[[Step], Step | None]) -> dict[str, list[Step]]:
        """What to write: this pipeline with ``change`` applied to each step, None taking a step out."""
        return {self.key: _rewritten(self.steps, change)}


def _walk(steps: Any) -> Iterator[Step]:
    for step in steps if isinstance(steps, (list, tuple)) else []:
        if isinstance(step, dict):
            yield step
            yield from _walk(step.get('transforms'))
        else:
            yield from _walk(step)


def _rewritten(steps: Any, change: Callable[[Step], Step | None]) -> list[Any]:
    result = []
    for step in steps:
        if isinstance(step, dict):
            step = change(dict(step))
            if step is None:
                continue
            if isinstance(step.get('transforms'), (list, tuple)):
                step = dict(step, transforms=_rewritten(step['transforms'], change))
        elif isinstance(step, (list, tuple)):
            step = _rewritten(step, change)
        result.append(step)
    return result


def split_pipelines(cfg: Config, split: str) -> list[Pipeline]:
    """The pipelines of a split's data sets, which are several under a ConcatDataset.

    Args:
        cfg: The whole config.
        split: ``'train'``, ``'val'`` or ``'test'``.
    """
    return [
        Pipeline(split, f'{key}.pipeline', tuple(dataset['pipeline']))
        for key, dataset in datasets_with_keys(cfg, split)
        if isinstance(dataset.get('pipeline'), (list, tuple)) and not dataset.get('dataset') and not dataset.get('datasets')
    ]


def pipeline(cfg: Config, split: str) -> Pipeline | None:
    """The first of :func:`split_pipelines`; None if there is none."""
    return next(iter(split_pipelines(cfg, split)), None)


def pipelines(cfg: Config) -> list[Pipeline]:
    """The pipelines of all splits that have one."""
    return [each for split in SPLITS for each in split_pipelines(cfg, split)]


def sweeps(cfg: Config, split: str) -> int | None:
    """Sweeps that the split's pipeline adds to a key frame, 0 if it adds none; None if it loads no points.

    Raises:
        ValueError: If ``sweeps_num`` is no number of sweeps.
    """
    found = pipeline(cfg, split)
    if found is None or not found.named('LoadPointsFromFile', 'LoadPointsFromMultiSweeps'):
        return None
    loaders = found.named('LoadPointsFromMultiSweeps')
    if not loaders:
        return 0
    number = loaders[0].get('sweeps_num', 10)  # mmdet3d's default
    if isinstance(number, bool) or not isinstance(number, int) or number < 0:
        raise ValueError(f'sweeps_num must be an int >= 0, got {number!r}')
    return number


def pasting(cfg: Config) -> Pipeline | None:
    """The first training pipeline that pastes objects; None if none does."""
    return next((each for each in split_pipelines(cfg, 'train') if each.named(PASTE)), None)
