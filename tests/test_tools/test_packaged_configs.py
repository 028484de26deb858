"""mmdet3d's packaged models, which know nothing of this package, on whichever operators mmcv has here."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from goldens import nuscenes_sample

ROOT = Path(__file__).parents[2]
OVERLAY = """
_base_ = 'mmdet3d::{name}'
train_pipeline = [step for step in _base_.train_pipeline if step['type'] != 'ObjectSample']
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=2, val_interval=2)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=2, by_epoch=False))
train_dataloader = dict(batch_size=1, num_workers=0, persistent_workers=False{changes})
val_dataloader = dict(num_workers=0, persistent_workers=False)
"""
# A sample has no object database, and mmdet3d's CBGSDataset divides by the samples of a class, of which one frame has none.
BALANCED = ", dataset=dict(type='bevfusion_plugin.CBGSDataset', dataset=dict(pipeline=train_pipeline))"
CHANGES = {
    'pointpillars/pointpillars_hv_secfpn_sbn-all_8xb4-2x_nus-3d.py': '',
    'centerpoint/centerpoint_pillar02_second_secfpn_8xb4-cyclic-20e_nus-3d.py': BALANCED,
}


@pytest.mark.parametrize('name', CHANGES)
def test_a_packaged_model_trains_and_predicts(tmp_path, name):
    config, work_dir = tmp_path / 'overlay.py', tmp_path / 'work'
    config.write_text(OVERLAY.format(name=name, changes=CHANGES[name]))
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / 'tools' / 'train.py'),
            str(config),
            '--trial',
            '--work-dir',
            str(work_dir),
            '--cfg-options',
            f'data_root={nuscenes_sample()}{os.sep}',
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(line) for line in next(work_dir.glob('*/vis_data/scalars.json')).read_text().splitlines()]
    losses = [line['loss'] for line in lines if 'loss' in line]
    assert len(losses) == 2 and all(map(math.isfinite, losses))
    assert [line for line in lines if 'center_distance/mAP' in line], 'its boxes were scored'
