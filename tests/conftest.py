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
