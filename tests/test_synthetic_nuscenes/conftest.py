"""One small synthetic nuScenes for the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from nuscenes import NuScenes
from synthetic_world import SETTINGS

from bevfusion_plugin.synthetic_nuscenes import build_scene, create_synthetic_nuscenes, simulate_keyframe


@pytest.fixture(scope='session')
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('nuscenes')
    assert create_synthetic_nuscenes(folder, SETTINGS)
    return folder


@pytest.fixture(scope='session')
def nusc(root) -> NuScenes:
    return NuScenes('v1.0-mini', str(root), verbose=False)


@pytest.fixture(scope='session')
def scenes() -> list:
    """World and rig of each scene."""
    return [build_scene(SETTINGS, scene) for scene in range(SETTINGS.scenes)]


@pytest.fixture(scope='session')
def keyframes(scenes) -> dict:
    """Every keyframe by (scene, sample)."""
    return {
        (scene, sample): simulate_keyframe(SETTINGS, scene, sample, *scenes[scene])
        for scene in range(SETTINGS.scenes)
        for sample in range(SETTINGS.samples_per_scene)
    }
