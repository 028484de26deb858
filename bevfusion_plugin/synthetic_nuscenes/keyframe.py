"""Everything the sensors see around one keyframe: its revolution, its six pictures, the sweeps before it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bevfusion_plugin.synthetic_nuscenes.camera import Picture, ShadowMap, render
from bevfusion_plugin.synthetic_nuscenes.catalog import CLASSES
from bevfusion_plugin.synthetic_nuscenes.lidar import Scan, points_per_object, scan
from bevfusion_plugin.synthetic_nuscenes.raycast import View, view_from
from bevfusion_plugin.synthetic_nuscenes.rig import CAMERAS, LIDAR, Sensor, build_rig
from bevfusion_plugin.synthetic_nuscenes.settings import KEYFRAME_PERIOD, Settings, random_stream
from bevfusion_plugin.synthetic_nuscenes.world import World, build_world

_MOST_DRAWS = 50
_ENOUGH_POINTS = 3


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


def build_scene(settings: Settings, scene: int) -> tuple[World, dict[str, Sensor]]:
    """World and rig of scene number ``scene``, drawn again until the lidar meets all ten classes.

    So that each class is there to be scored, whatever the seed: within the distance to which nuScenes scores it,
    and with points, in the first, the middle or the last keyframe.

    Raises:
        RuntimeError: That never came about.
    """
    rig = build_rig(settings, scene)
    for draw in range(_MOST_DRAWS):
        world = build_world(settings, scene, draw)
        if _meets_every_class(settings, scene, world, rig[LIDAR]):
            return world, rig
    raise RuntimeError(
        f'no world of scene {scene} with seed {settings.seed} shows all classes to the lidar in '
        f'{_MOST_DRAWS} draws; use more azimuth_steps or another seed'
    )


def _meets_every_class(settings: Settings, scene: int, world: World, lidar: Sensor) -> bool:
    reach = np.array([CLASSES[label].reach for label in world.labels])
    last, met = settings.samples_per_scene - 1, set()
    for sample in {0, last // 2, last}:
        view = sensor_view(world, lidar, sample * KEYFRAME_PERIOD)
        revolution = scan(world, view, random_stream(settings, scene, 3, sample), settings.azimuth_steps)
        near = np.linalg.norm(view.centers[: world.num_objects], axis=1) < reach
        met |= set(world.labels[near & (points_per_object(revolution.points, world, view) >= _ENOUGH_POINTS)])
    return len(met) == len(CLASSES)


def simulate_keyframe(settings: Settings, scene: int, sample: int, world: World, rig: dict[str, Sensor]) -> Keyframe:
    """What keyframe number ``sample`` of scene number ``scene`` records.

    Args:
        settings: Size and seed.
        scene: Index into ``SCENE_NAMES``.
        sample: 0-based index of the keyframe.
        world: From ``build_scene(settings, scene)``.
        rig: From the same.
    """
    random = random_stream(settings, scene, 2, sample)
    offset = sample * KEYFRAME_PERIOD
    sweeps = [
        scan(world, sensor_view(world, rig[LIDAR], sweep), random, settings.azimuth_steps) for sweep in settings.sweep_offsets(sample)
    ]
    lidar_view = sensor_view(world, rig[LIDAR], offset)
    revolution = scan(world, lidar_view, random, settings.azimuth_steps)
    shadows = ShadowMap(world, offset * 1e-6, world.ego.pose(offset * 1e-6)[0])
    pictures = {
        channel: render(world, sensor_view(world, rig[channel], offset), rig[channel], settings.image_size, shadows, random)
        for channel in CAMERAS
    }
    visible = sum(picture.visible for picture in pictures.values())
    unoccluded = sum(picture.unoccluded for picture in pictures.values())
    return Keyframe(
        revolution, pictures, sweeps, points_per_object(revolution.points, world, lidar_view), visible / np.maximum(unoccluded, 1)
    )


def sensor_view(world: World, sensor: Sensor, offset: int) -> View:
    """The world as ``sensor`` sees it ``offset`` microseconds after the start of the scene."""
    time = offset * 1e-6
    return view_from(world, time, *sensor.to_global(*world.ego.pose(time)))
