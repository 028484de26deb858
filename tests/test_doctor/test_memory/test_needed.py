import copy
from functools import partial

import pytest
from mmengine.config import Config
from pretended_gpus import pretend_gpus

from bevfusion_plugin.doctor.case import Case
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
    need = memory_function(demo, 1)
    machine(80, need(4) / MEMORY_SHARE + 0.001)
    chosen = copy.deepcopy(demo)
    assert set_samples_per_gpu(chosen, 'auto', 1) == 4
    assert not list(check_memory(Case(chosen, 1)))
    chosen.train_dataloader.batch_size = 8
    (problem,) = check_memory(Case(chosen, 1))
    assert f'8 samples a GPU need {need(8):.1f} GiB' in problem.message and '--samples-per-gpu auto' in problem.mend


def test_without_a_gpu_or_time_nothing_is_computed(demo, machine):
    machine()
    assert not list(check_memory(Case(demo, 1)))
    machine(0.1)
    assert not list(check_memory(Case(demo, 1, quick=True)))
