"""The classes that a config trains, in the order of their labels."""

from __future__ import annotations

from typing import Any

from bevfusion_plugin.doctor.reading.config import mapping
from bevfusion_plugin.doctor.reading.nuscenes import is_nuscenes

NUSCENES = (
    'car',
    'truck',
    'trailer',
    'bus',
    'construction_vehicle',
    'bicycle',
    'motorcycle',
    'pedestrian',
    'traffic_cone',
    'barrier',
)  # mmdet3d's order


def class_list(value: Any) -> list[str] | None:
    """``value`` as a list if it is a list of names, else None."""
    return list(value) if isinstance(value, (list, tuple)) and value and all(isinstance(each, str) for each in value) else None


def trained_classes(dataset: dict[str, Any]) -> list[str] | None:
    """The classes of a data set as it labels them; None where the config does not tell."""
    named = class_list(mapping(dataset.get('metainfo')).get('classes'))
    return named or (list(NUSCENES) if is_nuscenes(dataset) else None)
