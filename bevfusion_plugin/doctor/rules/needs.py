"""Rules about what a run needs: packages, devices, data, weights.

They are at error level where a run is about to start on this machine, which it cannot without them; for a training that is planned,
perhaps for another machine, what is missing here is a warning.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch

from bevfusion_plugin.doctor.case import Case
from bevfusion_plugin.doctor.finding import Problem, rule
from bevfusion_plugin.doctor.missing import Missing, missing_data, missing_devices, missing_packages, missing_weights
from bevfusion_plugin.doctor.reading.config import train_cfg


def _problems(case: Case, missing: Iterable[Missing]) -> Iterator[Problem]:
    for each in missing:
        yield Problem(each.what, each.mend, severity=None if case.starting else 'warning')


@rule('missing-packages', 'error', 'https://mmdetection3d.readthedocs.io/en/latest/get_started.html', is_need=True)
def check_packages(case: Case) -> Iterator[Problem]:
    """Packages of the config's scope that are not installed."""
    yield from _problems(case, missing_packages(case.cfg))


@rule('missing-gpu', 'error', 'https://pytorch.org/docs/stable/distributed.html', is_need=True)
def check_devices(case: Case) -> Iterator[Problem]:
    """GPUs that the training needs and this machine does not have."""
    planned = dict(case.cfg.items(), launcher='pytorch' if case.world_size > 1 else case.cfg.get('launcher', 'none'))
    yield from _problems(case, missing_devices(planned, case.ranks_here))
    if torch.cuda.is_available() and torch.cuda.device_count() < case.world_size:
        yield Problem(
            f'{case.world_size} GPUs are planned and this machine has {torch.cuda.device_count()}',
            'name the real number with --gpus',
            severity='warning',
        )


@rule('missing-data', 'error', 'https://mmdetection3d.readthedocs.io/en/latest/advanced_guides/datasets/nuscenes.html', is_need=True)
def check_data_files(case: Case) -> Iterator[Problem]:
    """Paths of the data sets that are not there; of a planned training the first, and how many there are."""
    if case.starting:
        yield from _problems(case, missing_data(case.cfg, training=case.starting == 'train'))
    elif train_cfg(case.cfg):
        found = list(missing_data(case.cfg, training=True))
        others = f' ({len(found) - 1} more of this kind)' if len(found) > 1 else ''
        yield from _problems(case, [each._replace(what=each.what + others) for each in found[:1]])


@rule('missing-weights', 'error', 'https://github.com/mit-han-lab/bevfusion/issues/207', is_need=True)
def check_weight_files(case: Case) -> Iterator[Problem]:
    """Weight files that are named and not there."""
    if case.starting == 'train' or not case.starting and train_cfg(case.cfg):
        yield from _problems(case, missing_weights(case.cfg))
