import copy
import json
from functools import partial

import pytest
from mmengine.config import Config
from pretended_gpus import pretend_gpus

from bevfusion_plugin.doctor.case import Case
from bevfusion_plugin.doctor.memory import measured
from bevfusion_plugin.doctor.memory.measured import model_key
from bevfusion_plugin.doctor.memory.needed import memory_function, smallest_gpu
from bevfusion_plugin.doctor.rules.model import check_memory
from bevfusion_plugin.launch.samples_per_gpu import set_samples_per_gpu
from bevfusion_plugin.plan.judgement import MEMORY_SHARE


@pytest.fixture
def demo(request):
    cfg = Config.fromfile(request.config.rootpath / 'configs/bevfusion_demo.py')
    cfg.optim_wrapper.total_batch_size = 32
    return cfg


@pytest.fixture
def machine(monkeypatch):
    """Pretends GPUs of so many GiB."""
    return partial(pretend_gpus, monkeypatch)


def test_the_smallest_gpu_counts(machine):
    machine(80, 24)
    assert smallest_gpu() == 24
    machine()
    assert smallest_gpu() is None


def test_doctor_and_auto_agree_on_what_fits(demo, machine):
    need = memory_function(demo, 1, gpu_memory=24)
    machine(80, need(4) / MEMORY_SHARE + 0.001)
    chosen = copy.deepcopy(demo)
    assert set_samples_per_gpu(chosen, 'auto', 1) == 4
    assert not list(check_memory(Case(chosen, 1)))
    chosen.train_dataloader.batch_size = 8
    (problem,) = check_memory(Case(chosen, 1))
    assert f'8 samples a GPU need {need(8):.1f} GiB' in problem.message and '--samples-per-gpu auto' in problem.mend


def test_what_was_measured_here_goes_before_the_model_as_in_a_plan(demo, machine, monkeypatch, tmp_path):
    row = dict(backend='torch', dtype='float32', with_cp=False, samples=4, reserved_gib=70.0)
    path = tmp_path / 'gpu.json'
    path.write_text(json.dumps(dict(version=1, model=model_key(demo), rows=[row], machine=dict(name='Some', gib=24.0))))
    computed = memory_function(demo, 1, gpu_memory=24)
    monkeypatch.setattr(measured, 'MEASUREMENTS', path)
    need = memory_function(demo, 1, gpu_memory=24)
    assert need(4) > 70 > computed(4) and need(2) == computed(2)
    machine(24)
    demo.train_dataloader.batch_size = 4
    assert [problem.message.split(' by ')[0] for problem in check_memory(Case(demo, 1))] == [f'4 samples a GPU need {need(4):.1f} GiB']


def test_without_a_gpu_or_time_nothing_is_computed(demo, machine):
    machine()
    assert not list(check_memory(Case(demo, 1)))
    machine(0.1)
    assert not list(check_memory(Case(demo, 1, quick=True)))
