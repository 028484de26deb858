"""mmdet3d's object pasting on every numpy, with objects that follow from a sample's own random numbers."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from mmdet3d.datasets.transforms import ObjectSample as MMDet3DObjectSample

from bevfusion_plugin.datasets.checks.fault import BadSample, unread
from bevfusion_plugin.plan.checked_settings import finite_number, settings_dict, switch, whole_number
from bevfusion_plugin.registry import TRANSFORMS

AGAIN = "make the object database again (mmdet3d's create_data.py, README, \"Data\"), or copy the file again"


@TRANSFORMS.register_module()
class ObjectSample(MMDet3DObjectSample):
    """mmdet3d's ``ObjectSample``, arguments and all, that also runs on numpy 1.24 to 1.26.

    mmdet3d 1.4.0 labels the pasted objects with ``np.long``, a name that those versions do not have. It is given back to them, with the
    type it has in numpy 2 on 64-bit Linux.

    mmdet3d shuffles the database once, before the loader's workers start, and goes through it from sample to sample: all workers, on
    every rank and again after each restart, would paste the same first objects, and what a sample gets would hang on those before it.
    Here every sample draws its objects, each at most once, from the whole database.

    Raises:
        BadSample: At the file of an object that is missing or damaged, with its name.
        ValueError: If a switch or a number cannot be.
    """

    def __init__(self, db_sampler: dict, sample_2d: bool = False, use_ground_plane: bool = False) -> None:
        check_sampler(db_sampler)
        switch('sample_2d', sample_2d), switch('use_ground_plane', use_ground_plane)
        if 'long' not in vars(np):  # hasattr would make numpy warn of the name
            setattr(np, 'long', np.int64)
        super().__init__(dict(db_sampler), sample_2d, use_ground_plane)
        draw_anew(self.db_sampler.sampler_dict)
        self.db_sampler.points_loader = partial(load_named, self.db_sampler.points_loader)


def load_named(loader: Callable[[dict], dict], results: dict) -> dict:
    """What mmdet3d's ``loader`` makes of an object's point file, which is named if it cannot be used.

    Raises:
        BadSample: If it is missing, cut off or holds NaN or inf.
    """
    path = results['lidar_points']['lidar_path']
    try:
        loaded = loader(results)
    except OSError as error:
        raise BadSample(f'{path}, an object to paste, {unread(error)}; {AGAIN}') from error
    except ValueError as error:  # numpy's, of a size that is no number of points
        raise BadSample(f'{path}, an object to paste, was cut off or has another number of features ({error}); {AGAIN}') from error
    if not torch.isfinite(loaded['points'].tensor).all():
        raise BadSample(f'{path}, an object to paste, has points that are not finite; {AGAIN}')
    return loaded


def check_sampler(db_sampler: dict) -> None:
    """Raise ValueError for numbers of a database sampler's config that mmdet3d would paste by."""
    if not settings_dict('db_sampler', db_sampler):
        raise ValueError(f'db_sampler must be the config of a database sampler, got {db_sampler!r}')
    finite_number('db_sampler.rate', db_sampler.get('rate', 1.0), 0)
    for name, wanted in settings_dict('db_sampler.sample_groups', db_sampler.get('sample_groups', {})).items():
        whole_number(f'db_sampler.sample_groups.{name}', wanted, 0)


def draw_anew(samplers: dict) -> None:
    """Let mmdet3d's samplers of each class draw without a memory.

    Args:
        samplers: mmdet3d's ``BatchSampler`` by class; changed.
    """
    for sampler in samplers.values():
        sampler._sample = partial(draw, sampler._example_num)


def draw(objects: int, wanted: int) -> list[int]:
    """``wanted`` different numbers below ``objects``; all of them if there are fewer."""
    return random.sample(range(objects), min(wanted, objects))
