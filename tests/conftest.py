"""What tests share: ``stand_ins/`` are small models, data and runs made up for them, ``recorded/`` reads the reference's numbers."""

import sys
from pathlib import Path

import pytest
import torch

import bevfusion_plugin  # noqa: F401  brings mmcv's operators, before a test imports mmdet3d

sys.path[:0] = [str(Path(__file__).parent / folder) for folder in ('stand_ins', 'recorded')]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(scope='session')
def tiny_nuscenes(tmp_path_factory) -> Path:
    """A synthetic nuScenes with info files: two scenes of two samples, the second of each with three sweeps. Nobody may change it."""
    from synthetic_infos import write_infos

    from bevfusion_plugin.synthetic_nuscenes import Settings, create_synthetic_nuscenes

    root = tmp_path_factory.mktemp('data') / 'nuscenes'
    create_synthetic_nuscenes(root, Settings(scenes=2, samples_per_scene=2, image_scale=0.1, sweeps=2, azimuth_steps=180))
    write_infos(root)
    return root
