"""What a batch must be before it goes to the device; a pipeline with ``bevfusion_plugin.CheckSample`` names faults sooner, with their file.

Box: (x, y, z, l, w, h, yaw[, vx, vy]), metres, radians, m/s.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.logging import print_log
from torch import Tensor
from torch.nn import Module

MATRICES = ('lidar2img', 'cam2img', 'cam2lidar', 'img_aug_matrix', 'lidar_aug_matrix')
MEND = "tools/check_data.py finds the file, and dict(type='bevfusion_plugin.CheckSample') first in the pipeline names it"
WARNED = 'samples_with_boxes_left_out'  # attribute of the preprocessor


def check_batch(preprocessor: Module, args: tuple) -> None:
    """Forward pre-hook of a data preprocessor: refuses inputs that are no numbers, and leaves out boxes that are none.

    It looks at what the loader gave, on the CPU: nothing waits for the device. Boxes that are not finite or have no size are taken
    out of the data samples, for every part of the head alike, with one warning a sample.

    Args:
        preprocessor: It; the samples that were warned of are remembered there.
        args: (batch, ...) of its forward: ``inputs`` and ``data_samples``, lists over the samples.

    Raises:
        ValueError: With sample and field, if points or matrices hold NaN or inf, or the samples have different numbers of cameras.
    """
    batch = args[0]
    if not isinstance(batch, dict) or not isinstance(batch.get('inputs'), dict):
        return
    samples = batch.get('data_samples')
    samples = samples if isinstance(samples, (list, tuple)) else []
    check_numbers_of_cameras(batch['inputs'].get('img'), samples)
    for index, points in enumerate(listed(batch['inputs'].get('points'))):
        if isinstance(points, Tensor) and not torch.isfinite(points.sum()):  # one number tells, if none of them is huge
            wrong = (~torch.isfinite(points)).any(-1).sum().item()
            if wrong:
                raise ValueError(f'{name_of(samples, index)}: {wrong:,} of {len(points):,} points are not finite; {MEND}')
    for index, sample in enumerate(samples):
        for name in MATRICES:
            value = sample.metainfo.get(name)
            if value is not None and not np.isfinite(np.asarray(value, dtype=np.float64)).all():
                raise ValueError(f'{name_of(samples, index)}: {name} holds numbers that are not finite; {MEND}')
        leave_out_boxes(sample, name_of(samples, index), vars(preprocessor).setdefault(WARNED, set()))


def check_numbers_of_cameras(images: Any, samples: Sequence[Any]) -> None:
    """The samples of a batch must have one number of images.

    Raises:
        ValueError: With the samples and their numbers, if they differ.
    """
    numbers = [len(image) for image in listed(images) if image.ndim == 4]
    if len(set(numbers)) > 1:
        each = ', '.join(f'{name_of(samples, index)}: {number}' for index, number in enumerate(numbers))
        raise ValueError(
            f'the samples of a batch have different numbers of cameras ({each}); name cameras that all of them have with '
            'BEVLoadMultiViewImageFromFiles(cameras=[...]), or train with batch_size=1'
        )


def leave_out_boxes(sample: Any, name: str, warned: set[str]) -> None:
    """Take boxes that are not finite or have no size out of a data sample; a velocity may be NaN, which nobody measured."""
    boxes = getattr(getattr(sample, 'gt_instances_3d', None), 'bboxes_3d', None)
    tensor = getattr(boxes, 'tensor', boxes)
    if not isinstance(tensor, Tensor) or not len(tensor):
        return
    usable = torch.isfinite(tensor[:, :7]).all(1) & (tensor[:, 3:6] > 0).all(1)
    if usable.all():
        return
    first = [round(value, 3) for value in tensor[~usable][0].tolist()]
    sample.gt_instances_3d = sample.gt_instances_3d[usable]
    if name not in warned:
        warned.add(name)
        print_log(
            f'{name}: {(~usable).sum().item()} boxes are not finite or have no size and are left out, the first is {first}; {MEND}',
            'current',
            logging.WARNING,
        )


def listed(value: Any) -> Iterator[Any]:
    """The elements of a list; nothing of anything else."""
    return iter(value) if isinstance(value, (list, tuple)) else iter(())


def name_of(samples: Sequence[Any], index: int) -> str:
    """How a message calls the sample of a batch: its index in the data set and its point file, as far as it tells."""
    meta = samples[index].metainfo if index < len(samples) else {}
    path = meta.get('lidar_path') or meta.get('img_path')
    name = f'sample {meta.get("sample_idx", f"number {index} of the batch")}'
    return f'{name} ({path})' if isinstance(path, str) else name
