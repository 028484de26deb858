"""The settings of the synthetic nuScenes that tests read, and where its things are."""

from __future__ import annotations

import numpy as np
from nuscenes import NuScenes
from pyquaternion import Quaternion

from bevfusion_plugin.synthetic_nuscenes import CLASSES, Settings, token

SETTINGS = Settings(scenes=2, samples_per_scene=3, image_scale=0.25, sweeps=2)
TINY = Settings(scenes=2, samples_per_scene=2, image_scale=0.1, sweeps=1, azimuth_steps=180)
LABELS = {item.name: label for label, item in enumerate(CLASSES)}


def annotation(nusc: NuScenes, scene: int, sample: int, index: int) -> dict:
    return nusc.get('sample_annotation', token(SETTINGS, 'sample_annotation', scene, sample, index))


def lidar_to_global(nusc: NuScenes, record: dict) -> tuple[np.ndarray, np.ndarray]:
    """(3, 3) and (3,) that map points of a lidar ``sample_data`` record to global coordinates."""
    pose = nusc.get('ego_pose', record['ego_pose_token'])
    mount = nusc.get('calibrated_sensor', record['calibrated_sensor_token'])
    turn = Quaternion(pose['rotation']).rotation_matrix
    return (turn @ Quaternion(mount['rotation']).rotation_matrix, turn @ mount['translation'] + np.array(pose['translation']))
