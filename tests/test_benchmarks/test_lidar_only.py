"""benchmarks/lidar_only.py: no step of a config without cameras asks for one."""

import sys
from pathlib import Path

from mmengine.config import Config

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / 'benchmarks'))

from lidar_only import drop_cameras  # noqa: E402


def test_no_step_asks_for_a_camera():
    cfg = Config.fromfile(ROOT / 'configs' / 'bevfusion_demo.py')
    drop_cameras(cfg)
    steps = {step.type.split('.')[-1]: step for step in cfg.train_dataloader.dataset.dataset.pipeline}
    assert steps['CheckSample'].cameras == [] and 'img' not in steps['Pack3DDetInputs']['keys'] and 'ImageAug3D' not in steps
