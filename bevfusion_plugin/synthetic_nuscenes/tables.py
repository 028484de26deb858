"""The 13 tables of nuScenes, as lists of records, for synthetic scenes.

Source: the nuScenes schema (docs/schema_nuscenes.md of the devkit).
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass

import numpy as np
from pyquaternion import Quaternion

from bevfusion_plugin.synthetic_nuscenes.catalog import ATTRIBUTES, CATEGORIES, CLASSES, VISIBILITY_LEVELS, attribute_name, visibility_token
from bevfusion_plugin.synthetic_nuscenes.rig import CAMERAS, LIDAR, Sensor
from bevfusion_plugin.synthetic_nuscenes.settings import KEYFRAME_PERIOD, SCENE_NAMES, Settings, timestamp
from bevfusion_plugin.synthetic_nuscenes.world import World

_ANNOTATED_RANGE = 80.0

Record = dict[str, object]


@dataclass(frozen=True)
class Measured:
    """What one keyframe made of the K objects: ``num_lidar_pts`` (K,) and ``visibility`` (K,) in [0, 1]."""

    num_lidar_pts: np.ndarray
    visibility: np.ndarray


@dataclass(frozen=True)
class SceneRecording:
    """A scene as its tables need it: ``keyframes`` holds one ``Measured`` a sample."""

    world: World
    rig: dict[str, Sensor]
    keyframes: list[Measured]


def token(settings: Settings, *name: object) -> str:
    """The 32-digit token of the record called ``name``: a hash, so that equal seeds give equal tokens."""
    return hashlib.md5('/'.join(map(str, (settings.seed, *name))).encode()).hexdigest()


def log_name(scene: int) -> str:
    """Name of the drive that scene number ``scene`` was cut from; file names begin with it."""
    start = time.gmtime(timestamp(scene, 0) // 1_000_000)
    return f'synthetic-{time.strftime("%Y-%m-%d-%H-%M-%S", start)}+0000'


def sensor_file(channel: str, scene: int, offset: int) -> str:
    """Path below the data root of what ``channel`` recorded ``offset`` microseconds after the scene's start."""
    folder = 'samples' if offset % KEYFRAME_PERIOD == 0 else 'sweeps'
    ending = 'pcd.bin' if channel == LIDAR else 'jpg'
    return f'{folder}/{channel}/{log_name(scene)}__{channel}__{timestamp(scene, offset)}.{ending}'


def map_file(settings: Settings, scene: int) -> str:
    """Path below the data root of the picture of the drivable ground of scene number ``scene``."""
    return f'maps/{token(settings, "map", scene)}.png'


def build_tables(settings: Settings, recordings: list[SceneRecording]) -> dict[str, list[Record]]:
    """All 13 tables by name, for scenes 0, 1, ... in order."""
    tables = _fixed_tables(settings)
    for scene, recording in enumerate(recordings):
        for name, records in _scene_tables(settings, scene).items():
            tables[name] += records
        tables['calibrated_sensor'] += _calibrated_sensors(settings, scene, recording.rig)
        for channel in (LIDAR, *CAMERAS):
            offsets = _offsets(settings, channel)
            tables['sample_data'] += _sample_data(settings, scene, channel, offsets)
            tables['ego_pose'] += _ego_poses(settings, scene, channel, offsets, recording.world)
        instances, annotations = _annotations(settings, scene, recording)
        tables['instance'] += instances
        tables['sample_annotation'] += annotations
    return tables


def _fixed_tables(settings: Settings) -> dict[str, list[Record]]:
    names = ('scene', 'sample', 'sample_data', 'sample_annotation', 'instance', 'calibrated_sensor', 'ego_pose', 'log', 'map')
    tables: dict[str, list[Record]] = {name: [] for name in names}
    for table, entries in (('category', CATEGORIES), ('attribute', ATTRIBUTES)):
        tables[table] = [{'token': token(settings, table, name), 'name': name, 'description': ''} for name in entries]
    tables['visibility'] = [{'token': str(number + 1), 'level': level, 'description': ''} for number, level in enumerate(VISIBILITY_LEVELS)]
    tables['sensor'] = [
        {'token': token(settings, 'sensor', channel), 'channel': channel, 'modality': 'lidar' if channel == LIDAR else 'camera'}
        for channel in (LIDAR, *CAMERAS)
    ]
    return tables


def _scene_tables(settings: Settings, scene: int) -> dict[str, list[Record]]:
    """The scene's own record, its log and map, and its samples."""
    log_token, scene_token = token(settings, 'log', scene), token(settings, 'scene', scene)
    samples = _chain(
        [
            {
                'token': token(settings, 'sample', scene, sample),
                'timestamp': timestamp(scene, sample * KEYFRAME_PERIOD),
                'scene_token': scene_token,
            }
            for sample in range(settings.samples_per_scene)
        ]
    )
    date = time.strftime('%Y-%m-%d', time.gmtime(timestamp(scene, 0) // 1_000_000))
    return {
        'scene': [
            {
                'token': scene_token,
                'log_token': log_token,
                'nbr_samples': len(samples),
                'first_sample_token': samples[0]['token'],
                'last_sample_token': samples[-1]['token'],
                'name': SCENE_NAMES[scene],
                'description': 'synthetic boxes',
            }
        ],
        'log': [{'token': log_token, 'logfile': log_name(scene), 'vehicle': 'synthetic', 'date_captured': date, 'location': 'synthetic'}],
        'map': [
            {
                'token': token(settings, 'map', scene),
                'category': 'semantic_prior',
                'log_tokens': [log_token],
                'filename': map_file(settings, scene),
            }
        ],
        'sample': samples,
    }


def _chain(records: list[Record]) -> list[Record]:
    """The records with ``prev`` and ``next`` set to the tokens of their neighbours, empty at the ends."""
    tokens = ['', *(record['token'] for record in records), '']
    return [{**record, 'prev': prev, 'next': next_} for record, prev, next_ in zip(records, tokens, tokens[2:])]


def _calibrated_sensors(settings: Settings, scene: int, rig: dict[str, Sensor]) -> list[Record]:
    return [
        {
            'token': token(settings, 'calibrated_sensor', scene, channel),
            'sensor_token': token(settings, 'sensor', channel),
            'translation': sensor.translation.tolist(),
            'rotation': Quaternion(matrix=sensor.rotation).elements.tolist(),
            'camera_intrinsic': [] if sensor.intrinsic is None else sensor.intrinsic.tolist(),
        }
        for channel, sensor in rig.items()
    ]


def _offsets(settings: Settings, channel: str) -> list[int]:
    """Moments, in microseconds from the scene's start, at which a channel records."""
    return [
        offset
        for sample in range(settings.samples_per_scene)
        for offset in (*(settings.sweep_offsets(sample) if channel == LIDAR else ()), sample * KEYFRAME_PERIOD)
    ]


def _sample_data(settings: Settings, scene: int, channel: str, offsets: list[int]) -> list[Record]:
    width, height = (0, 0) if channel == LIDAR else settings.image_size
    return _chain(
        [
            {
                'token': token(settings, 'sample_data', scene, channel, offset),
                # A sweep belongs to the keyframe after it: the devkit places its boxes between that one and the one before.
                'sample_token': token(settings, 'sample', scene, -(-offset // KEYFRAME_PERIOD)),
                'ego_pose_token': token(settings, 'ego_pose', scene, channel, offset),
                'calibrated_sensor_token': token(settings, 'calibrated_sensor', scene, channel),
                'timestamp': timestamp(scene, offset),
                'fileformat': 'pcd' if channel == LIDAR else 'jpg',
                'is_key_frame': offset % KEYFRAME_PERIOD == 0,
                'height': height,
                'width': width,
                'filename': sensor_file(channel, scene, offset),
            }
            for offset in offsets
        ]
    )


def _ego_poses(settings: Settings, scene: int, channel: str, offsets: list[int], world: World) -> list[Record]:
    records = []
    for offset in offsets:
        position, yaw = world.ego.pose(offset * 1e-6)
        records.append(
            {
                'token': token(settings, 'ego_pose', scene, channel, offset),
                'timestamp': timestamp(scene, offset),
                'rotation': _yaw_quaternion(float(yaw)),
                'translation': [*position.tolist(), 0.0],
            }
        )
    return records


def _annotations(settings: Settings, scene: int, recording: SceneRecording) -> tuple[list[Record], list[Record]]:
    """Instances of a scene, and their annotations in every keyframe within the annotated range of the ego."""
    world, instances, annotations = recording.world, [], []
    times = [sample * KEYFRAME_PERIOD * 1e-6 for sample in range(settings.samples_per_scene)]
    centers = np.stack([world.centers(time) for time in times])
    distance = np.stack([np.hypot(*(centers[sample, :, :2] - world.ego.pose(time)[0]).T) for sample, time in enumerate(times)])
    for index in range(world.num_objects):
        seen = np.flatnonzero(distance[:, index] < _ANNOTATED_RANGE)
        if not len(seen):
            continue
        own = _chain([_annotation(settings, scene, int(sample), index, centers[sample, index], recording) for sample in seen])
        category = token(settings, 'category', CLASSES[world.labels[index]].category)
        instances.append(
            {
                'token': token(settings, 'instance', scene, index),
                'category_token': category,
                'nbr_annotations': len(own),
                'first_annotation_token': own[0]['token'],
                'last_annotation_token': own[-1]['token'],
            }
        )
        annotations += own
    return instances, annotations


def _annotation(settings: Settings, scene: int, sample: int, index: int, center: np.ndarray, recording: SceneRecording) -> Record:
    world, measured = recording.world, recording.keyframes[sample]
    length, width, height = world.sizes[index].tolist()
    attribute = attribute_name(CLASSES[world.labels[index]].name, float(np.hypot(*world.velocities[index])))
    return {
        'token': token(settings, 'sample_annotation', scene, sample, index),
        'sample_token': token(settings, 'sample', scene, sample),
        'instance_token': token(settings, 'instance', scene, index),
        'visibility_token': visibility_token(float(measured.visibility[index])),
        'attribute_tokens': [] if attribute is None else [token(settings, 'attribute', attribute)],
        'translation': center.tolist(),
        'size': [width, length, height],
        'rotation': _yaw_quaternion(float(world.yaws[index])),
        'num_lidar_pts': int(measured.num_lidar_pts[index]),
        'num_radar_pts': 0,
    }


def _yaw_quaternion(yaw: float) -> list[float]:
    return [float(np.cos(yaw / 2)), 0.0, 0.0, float(np.sin(yaw / 2))]
