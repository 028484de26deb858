"""Pipelines with the place where they stand in the config, so that a rule can say what to write there instead."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from mmengine.config import Config

from bevfusion_plugin.doctor.reading.config import mapping, short_name

SPLITS = ('train', 'val', 'test')
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


def pipeline(cfg: Config, split: str) -> Pipeline | None:
    """The pipeline of a split; None if there is none, or it stands in a list of data sets.

    Args:
        cfg: The whole config.
        split: ``'train'``, ``'val'`` or ``'test'``.
    """
    key = f'{split}_dataloader.dataset'
    dataset = mapping(mapping(cfg.get(f'{split}_dataloader')).get('dataset'))
    while isinstance(dataset.get('dataset'), dict):  # CBGSDataset, RepeatDataset, ...
        key, dataset = f'{key}.dataset', dataset['dataset']
    steps = dataset.get('pipeline')
    return Pipeline(split, f'{key}.pipeline', tuple(steps)) if isinstance(steps, (list, tuple)) else None


def pipelines(cfg: Config) -> list[Pipeline]:
    """The pipelines of all splits that have one."""
    found = (pipeline(cfg, split) for split in SPLITS)
    return [each for each in found if each is not None]


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
    """The training pipeline if it pastes objects."""
    found = pipeline(cfg, 'train')
    return found if found is not None and found.named(PASTE) else None
