"""One tiny synthetic nuScenes with info files for the tests of this folder."""
from __future__ import annotations

from pathlib import Path

import pytest
from synthetic_infos import write_infos

from bevfusion_plugin.synthetic_nuscenes import Settings, create_synthetic_nuscenes


@pytest.fixture(scope='session')
def tiny_nuscenes(tmp_path_factory) -> Path:
    """Two scenes of two samples; the second of each has three sweeps. Nobody may change it."""
    root = tmp_path_factory.mktemp('data') / 'nuscenes'
    create_synthetic_nuscenes(root, Settings(scenes=2, samples_per_scene=2, image_scale=0.1, sweeps=2, azimuth_steps=180))
    write_infos(root)
    return root
