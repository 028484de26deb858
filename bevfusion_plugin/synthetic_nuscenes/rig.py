"""Where the sensors sit on the ego car: one lidar and six cameras placed and aimed as in nuScenes.

Frames: ego (x ahead, y left, z up, origin on the ground under the rear axle), lidar (x right, y ahead, z up),
camera (x right, y down, z ahead). ``rotation`` and ``translation`` of a sensor map sensor to ego coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pyquaternion import Quaternion

from bevfusion_plugin.synthetic_nuscenes.settings import Settings, random_stream

LIDAR = 'LIDAR_TOP'

_LIDAR_POSITION = (0.94, 0.0, 1.84)
# Typical of the public nuScenes calibrations, rounded: position (m), yaw (degrees), focal length and principal
# point (pixels at 1600 x 900).
_CAMERAS = {
    'CAM_FRONT': ((1.70, 0.0, 1.51), 0.0, 1266.0, (816.0, 491.0)),
    'CAM_FRONT_RIGHT': ((1.55, -0.49, 1.50), -56.4, 1261.0, (808.0, 495.0)),
    'CAM_BACK_RIGHT': ((1.01, -0.48, 1.56), -110.8, 1260.0, (807.0, 501.0)),
    'CAM_BACK': ((0.03, 0.0, 1.58), 180.0, 809.0, (829.0, 482.0)),
    'CAM_BACK_LEFT': ((1.04, 0.48, 1.59), 108.6, 1257.0, (792.0, 493.0)),
    'CAM_FRONT_LEFT': ((1.52, 0.49, 1.51), 55.2, 1273.0, (827.0, 480.0)),
}
CAMERAS = tuple(_CAMERAS)


@dataclass(frozen=True)
class Sensor:
    """A mounted sensor: (3, 3) ``rotation`` and (3,) ``translation`` sensor2ego; for a camera also the (3, 3)
    ``intrinsic`` camera-to-pixel matrix, else None."""

    channel: str
    rotation: np.ndarray
    translation: np.ndarray
    intrinsic: np.ndarray | None = None

    def to_global(self, ego_position: np.ndarray, ego_yaw: float | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(3, 3) rotation and (3,) translation sensor2global while the ego is at (x, y) with that yaw."""
        turn = yaw_matrix(float(ego_yaw))
        return turn @ self.rotation, turn @ self.translation + np.array([*ego_position, 0.0])


def yaw_matrix(yaw: float) -> np.ndarray:
    """(3, 3) rotation about z by ``yaw`` radians."""
    cos, sin = np.cos(yaw), np.sin(yaw)
    return np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])


def build_rig(settings: Settings, scene: int) -> dict[str, Sensor]:
    """The lidar and the six cameras by channel; every scene's car is calibrated a little differently."""
    random = random_stream(settings, scene, 1)
    rig = {LIDAR: _mount(random, LIDAR, yaw_matrix(-np.pi / 2), _LIDAR_POSITION)}
    scale = np.array([[settings.image_scale], [settings.image_scale], [1.0]])
    camera_axes = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])  # right, down, ahead in ego axes
    for channel, (position, yaw, focal, (center_x, center_y)) in _CAMERAS.items():
        intrinsic = scale * np.array([[focal, 0.0, center_x], [0.0, focal, center_y], [0.0, 0.0, 1.0]])
        rig[channel] = _mount(random, channel, yaw_matrix(np.radians(yaw)) @ camera_axes, position, intrinsic)
    return rig


def _mount(
    random: np.random.Generator,
    channel: str,
    rotation: np.ndarray,
    position: tuple[float, float, float],
    intrinsic: np.ndarray | None = None,
) -> Sensor:
    tilt = Quaternion(axis=random.normal(size=3), radians=random.normal(0, np.radians(0.4)))
    return Sensor(channel, tilt.rotation_matrix @ rotation, np.array(position) + random.normal(0, 0.01, 3), intrinsic)
