"""What a synthetic nuScenes is made of: its size, seed and the moments at which the sensors look."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# nuScenes' own mini scenes, so that the devkit's splits apply; 0103 and 0916 are mini_val.
SCENE_NAMES = (
    'scene-0061',
    'scene-0103',
    'scene-0553',
    'scene-0655',
    'scene-0757',
    'scene-0796',
    'scene-0916',
    'scene-1077',
    'scene-1094',
    'scene-1100',
)
VERSION = 'v1.0-mini'
KEYFRAME_PERIOD = 500_000  # microseconds: nuScenes annotates at 2 Hz

# Whole seconds: times a float64 of 1e-6 they stay exact, so velocities from differences do too.
_FIRST_TIMESTAMP = 1_600_000_000_000_000
_SCENE_SPACING = 3_600_000_000


@dataclass(frozen=True)
class Settings:
    """Size and seed of a synthetic nuScenes; equal settings give equal bytes.

    Args:
        scenes: 2 to 10. The first is a training scene, the second one of validation; mmdet3d's converter needs both.
        samples_per_scene: Keyframes a scene, 0.5 s apart; at least 2, else no velocity is defined.
        seed: Seed of everything random. A scene looks the same whatever the number of scenes is.
        image_scale: Image side as a share of 1600 x 900, in (0, 1]; the intrinsics scale along.
        sweeps: Lidar sweeps between two keyframes, evenly spaced; 9 is the 20 Hz of nuScenes, 2 (6 Hz) is light.
        azimuth_steps: Firings of the 32 beams a revolution. nuScenes has about 1090; 720 saves a third.

    Raises:
        ValueError: A value is out of range.
    """

    scenes: int = 10
    samples_per_scene: int = 8
    seed: int = 0
    image_scale: float = 1.0
    sweeps: int = 2
    azimuth_steps: int = 720

    def __post_init__(self) -> None:
        _check_integer(
            'scenes', self.scenes, 2, len(SCENE_NAMES), 'one training and one validation scene are the least, nuScenes mini has ten'
        )
        _check_integer('samples_per_scene', self.samples_per_scene, 2, 1000, 'velocities need two keyframes')
        _check_integer('seed', self.seed, 0, 2**63 - 1, 'seeds are not negative')
        _check_integer('sweeps', self.sweeps, 0, 9, '9 is the 20 Hz of nuScenes')
        _check_integer('azimuth_steps', self.azimuth_steps, 180, 4096, 'nuScenes has about 1090')
        if not (isinstance(self.image_scale, (int, float)) and 0.05 <= self.image_scale <= 1):
            raise ValueError(f'image_scale must be in [0.05, 1], got {self.image_scale!r}; 1 is 1600 x 900')

    @property
    def image_size(self) -> tuple[int, int]:
        """Width and height of every image in pixels."""
        return round(1600 * self.image_scale), round(900 * self.image_scale)

    @property
    def duration(self) -> float:
        """Seconds from the first to the last keyframe of a scene."""
        return (self.samples_per_scene - 1) * KEYFRAME_PERIOD * 1e-6

    def sweep_offsets(self, sample: int) -> list[int]:
        """Microseconds from the scene's start of the sweeps that lead to keyframe ``sample``, oldest first."""
        if sample == 0:
            return []
        between = self.sweeps + 1
        previous = (sample - 1) * KEYFRAME_PERIOD
        return [previous + step * KEYFRAME_PERIOD // between for step in range(1, between)]


def _check_integer(name: str, value: object, low: int, high: int, why: str) -> None:
    if not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f'{name} must be an integer from {low} to {high}, got {value!r}: {why}')


def timestamp(scene: int, offset: int) -> int:
    """nuScenes timestamp (microseconds) of ``offset`` microseconds after the start of scene number ``scene``."""
    return _FIRST_TIMESTAMP + scene * _SCENE_SPACING + offset


def random_stream(settings: Settings, scene: int, *purpose: int) -> np.random.Generator:
    """A generator of its own for every purpose, so that no work depends on the order in which others are done."""
    return np.random.default_rng([settings.seed, scene, *purpose])
