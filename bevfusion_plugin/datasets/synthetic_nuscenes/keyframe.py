"""Everything the sensors see around one keyframe: its revolution, its six pictures, the sweeps before it."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .camera import Picture, ShadowMap, render
from .lidar import Scan, points_per_object, scan
from .raycast import View, view_from
from .rig import CAMERAS, LIDAR, Sensor
from .settings import KEYFRAME_PERIOD, Settings, random_stream
from .world import World


@dataclass(frozen=True)
class Keyframe:
    """One keyframe of a scene; K objects.

    Attributes:
        scan: The lidar revolution.
        pictures: One picture a camera channel.
        sweeps: Revolutions between the keyframe before and this one, oldest first.
        num_lidar_pts: (K,) points of ``scan`` inside each object's box.
        visibility: (K,) share of an object's pixels that the six pictures show; 0 where none has it in sight.
    """
    scan: Scan
    pictures: dict[str, Picture]
    sweeps: list[Scan]
    num_lidar_pts: np.ndarray
    visibility: np.ndarray


def simulate_keyframe(settings: Settings, scene: int, sample: int, world: World, rig: dict[str, Sensor]) -> Keyframe:
    """What keyframe number ``sample`` of scene number ``scene`` records.

    Args:
        settings: Size and seed.
        scene: Index into ``SCENE_NAMES``.
        sample: 0-based index of the keyframe.
        world: ``build_world(settings, scene)``.
        rig: ``build_rig(settings, scene)``.
    """
    random = random_stream(settings, scene, 2, sample)
    offset = sample * KEYFRAME_PERIOD
    sweeps = [scan(world, sensor_view(world, rig[LIDAR], sweep), random, settings.azimuth_steps)
              for sweep in settings.sweep_offsets(sample)]
    lidar_view = sensor_view(world, rig[LIDAR], offset)
    revolution = scan(world, lidar_view, random, settings.azimuth_steps)
    shadows = ShadowMap(world, offset * 1e-6, world.ego.pose(offset * 1e-6)[0])
    pictures = {channel: render(world, sensor_view(world, rig[channel], offset), rig[channel], settings.image_size,
                                shadows, random) for channel in CAMERAS}
    visible = sum(picture.visible for picture in pictures.values())
    unoccluded = sum(picture.unoccluded for picture in pictures.values())
    return Keyframe(revolution, pictures, sweeps, points_per_object(revolution.points, world, lidar_view),
                    visible / np.maximum(unoccluded, 1))


def sensor_view(world: World, sensor: Sensor, offset: int) -> View:
    """The world as ``sensor`` sees it ``offset`` microseconds after the start of the scene."""
    time = offset * 1e-6
    return view_from(world, time, *sensor.to_global(*world.ego.pose(time)))
