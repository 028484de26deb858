"""A test of the same checkpoint under other conditions: in half precision, or without what a sensor saw."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.config import Config
from mmengine.model import BaseModel, MMDistributedDataParallel
from torch import Tensor

from bevfusion_plugin.doctor.reading.model import has_cameras, sees_lidar

SENSORS = ('camera', 'lidar')


def check_sensor(cfg: Config, sensor: str) -> None:
    """Make sure that the model has this sensor and another one beside it.

    Raises:
        ValueError: If not.
    """
    found = [name for name, is_there in zip(SENSORS, (has_cameras(cfg), sees_lidar(cfg))) if is_there]
    if len(found) < 2 or sensor not in found:
        raise ValueError(
            f'--without {sensor} needs a model with camera and lidar, got one with {" and ".join(found) or "neither"}; leave the flag out'
        )


def change_test_step(model: BaseModel | MMDistributedDataParallel, without: str | None = None, dtype: torch.dtype | None = None) -> None:
    """Have ``model.test_step`` see black images or no points, and run under autocast.

    Args:
        model: A model of MMEngine's, wrapped for several processes or not; its weights stay.
        without: ``'camera'`` or ``'lidar'``: what is taken from each batch; None: nothing.
        dtype: What autocast casts to; None: no autocast.
    """
    whole_step = model.test_step

    def test_step(data: Any) -> list:
        device = next(model.parameters()).device.type
        with torch.autocast(device, dtype=dtype, enabled=dtype is not None):
            return whole_step(without_sensor(data, without) if without else data)

    model.test_step = test_step


def without_sensor(data: Mapping[str, Any], sensor: str) -> dict[str, Any]:
    """A batch of mmdet3d's, as its loader gives it, with black images or with clouds of no points; ``data`` stays as it is."""
    key, emptied = ('img', torch.zeros_like) if sensor == 'camera' else ('points', _no_points)
    return dict(data, inputs=dict(data['inputs'], **{key: [emptied(each) for each in data['inputs'][key]]}))


def _no_points(points: Tensor) -> Tensor:
    return points[:0]
