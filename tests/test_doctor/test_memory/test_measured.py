import copy
import json
import math

import pytest
import torch
from mmengine.config import Config

from bevfusion_plugin.doctor.memory.measured import MEASURED, measured_bytes, model_key, read_measurements, with_measurements
from bevfusion_plugin.plan.memory_model import GIB


@pytest.fixture
def cfg(request):
    return Config.fromfile(request.config.rootpath / 'configs/bevfusion_4x4090.py')


@pytest.fixture
def record(cfg):
    """Two backends; the first one's rows in float16 for 1, 2 and 3 samples, of which the last ran out of 24 GiB."""

    def row(backend, samples, dtype='float16', with_cp=False, **result):
        return dict(backend=backend, dtype=dtype, with_cp=with_cp, samples=samples, **result)

    return dict(
        version=1,
        model=model_key(cfg),
        machine=dict(name='NVIDIA Some', gib=24.0),
        rows=[
            row('spconv', 1, reserved_gib=5.0),
            row('spconv', 2, reserved_gib=9.0),
            row('spconv', 3, error='out of memory'),
            row('torch', 1, reserved_gib=7.0),
            row('spconv', 1, with_cp=True, reserved_gib=3.0),
            row('spconv', 4, error='RuntimeError: x'),
        ],
    )


def test_the_first_backends_rows_of_the_precision_count(cfg, record):
    assert measured_bytes(record, cfg, torch.float16, False, 24) == {1: 5 * GIB, 2: 9 * GIB, 3: math.inf}
    assert measured_bytes(record, cfg, torch.float16, False, 80) == {1: 5 * GIB, 2: 9 * GIB}, 'a larger GPU may have room'
    assert measured_bytes(record, cfg, torch.float16, True, 24) == {1: 3 * GIB}
    assert measured_bytes(record, cfg, torch.float32, False, 24) == {}


def test_another_model_has_no_measurements_and_other_weights_are_no_other_model(cfg, record):
    other = copy.deepcopy(cfg)
    other.model.pts_backbone.out_channels = [64, 128]
    assert measured_bytes(record, other, torch.float16, False, 24) == {}
    same = copy.deepcopy(cfg)
    same.model.img_backbone.init_cfg = None
    same.model.with_cp = True
    same.optim_wrapper.optimizer.lr = 1.0
    assert model_key(same) == model_key(cfg)


def test_what_was_measured_replaces_what_one_process_needs_and_nothing_else(cfg, record):
    estimate = {'activations': 4.0, 'buckets of DistributedDataParallel': 2.0, 'CUDA context, NCCL, cuDNN (estimate)': 1.0}
    rows = with_measurements(lambda b: dict(estimate), {1: 5.0})
    assert rows(1) == {MEASURED: 5.0, 'buckets of DistributedDataParallel': 2.0, 'CUDA context, NCCL, cuDNN (estimate)': 1.0}
    assert rows(2) == estimate


@pytest.mark.parametrize(
    'text, message',
    [('{', 'is no JSON'), ('[]', 'is no record of benchmarks/gpu.py'), ('{"version": 2, "rows": []}', 'is no record of benchmarks/gpu.py')],
)
def test_another_file_is_refused(tmp_path, text, message):
    (tmp_path / 'gpu.json').write_text(text)
    with pytest.raises(ValueError, match=message):
        read_measurements(tmp_path / 'gpu.json')


def test_a_record_is_read_back(tmp_path, record):
    (tmp_path / 'gpu.json').write_text(json.dumps(record))
    assert read_measurements(tmp_path / 'gpu.json') == record
