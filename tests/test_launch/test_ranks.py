import gc
import sys
import weakref
from datetime import timedelta

import pytest
import torch
from mmengine.config import Config

from bevfusion_plugin.launch.ranks import number_of_ranks, process_group, rank_command, rank_of, ranks_here, start_cpu_ranks


@pytest.fixture
def process_groups(monkeypatch):
    """The process groups that were asked for."""
    asked = []
    monkeypatch.setattr(torch.distributed, 'init_process_group', lambda **settings: asked.append(settings))
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    return asked


def test_processes_on_cpus_form_the_group_that_the_config_names(process_groups):
    cfg = Config(
        dict(
            launcher='pytorch', env_cfg=dict(dist_cfg=dict(backend='gloo', timeout=60)), model_wrapper_cfg=dict(find_unused_parameters=True)
        )
    )
    start_cpu_ranks(cfg)
    assert process_groups == [dict(backend='gloo', timeout=timedelta(seconds=60))]
    assert cfg.env_cfg.dist_cfg.timeout == 60
    assert cfg.model_wrapper_cfg == dict(broadcast_buffers=False, find_unused_parameters=True, device_ids=None)


def test_one_process_and_gpus_are_left_to_mmengine(process_groups, monkeypatch):
    alone = Config(dict(launcher='none', env_cfg=dict(dist_cfg=dict(backend='nccl'))))
    start_cpu_ranks(alone)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    on_gpus = Config(dict(launcher='pytorch', env_cfg=dict(dist_cfg=dict(backend='nccl'))))
    start_cpu_ranks(on_gpus)
    assert process_groups == [] and 'model_wrapper_cfg' not in alone and 'model_wrapper_cfg' not in on_gpus


class Trainer:
    """Holds the process group in a cycle, as a Runner does through DistributedDataParallel."""

    def __init__(self):
        self.group, self.trainer = torch.distributed.group.WORLD, self


def trainer_of(kept):
    """A Trainer that has communicated and of which ``kept`` gets a weak reference."""
    trainer = Trainer()
    torch.distributed.all_reduce(torch.ones(1))
    kept.append(weakref.ref(trainer))
    return trainer


def alone_in_a_group(tmp_path):
    return Config(
        dict(launcher='pytorch', env_cfg=dict(dist_cfg=dict(backend='gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1)))
    )


@pytest.fixture
def no_collection():
    """Garbage is collected only where it is asked for."""
    gc.disable()
    yield
    gc.enable()


def test_the_group_is_destroyed_after_all_that_holds_it(tmp_path, monkeypatch, no_collection):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    destroy, kept, held = torch.distributed.destroy_process_group, [], []
    monkeypatch.setattr(torch.distributed, 'destroy_process_group', lambda: (held.append(kept[0]()), destroy()))
    with process_group(alone_in_a_group(tmp_path)):
        trainer_of(kept)
    assert held == [None], 'its threads would outlive it'
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize('error', [ValueError('no such file'), KeyboardInterrupt(), SystemExit(3)], ids=lambda error: type(error).__name__)
def test_the_group_is_destroyed_after_an_error_which_goes_on(tmp_path, monkeypatch, no_collection, error):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.setattr(torch.distributed, 'barrier', lambda: pytest.fail('the others may never come'))
    kept = []

    def fail(trainer, error):
        raise error

    def train():
        try:
            fail(trainer_of(kept), LookupError('the cause'))
        except LookupError:
            fail(trainer_of(kept), error)

    with pytest.raises(type(error)) as raised, process_group(alone_in_a_group(tmp_path)):
        train()
    assert raised.value is error and raised.traceback[-1].name == 'fail'
    assert [trainer() for trainer in kept] == [None, None] and not torch.distributed.is_initialized()


def test_a_group_that_the_runner_started_is_left_too(tmp_path):
    cfg = Config(dict(launcher='slurm'))
    with process_group(cfg):
        torch.distributed.init_process_group(**alone_in_a_group(tmp_path).env_cfg.dist_cfg)
    assert not torch.distributed.is_initialized()


def test_a_run_of_one_process_has_no_group_to_leave():
    with process_group(Config(dict(launcher='none'))):
        assert not torch.distributed.is_initialized()
    with pytest.raises(ValueError, match='no such file'), process_group(Config(dict(launcher='none'))):
        raise ValueError('no such file')


def test_a_tool_is_run_alone_or_by_the_launcher():
    assert rank_command(1, 'train.py', 'c.py') == [sys.executable, 'train.py', 'c.py']
    several = rank_command(4, 'train.py', 'c.py')
    assert several[:3] == [sys.executable, '-m', 'torch.distributed.run'] and '--nproc_per_node=4' in several
    assert several[-4:] == ['train.py', 'c.py', '--launcher', 'pytorch']


# what the launchers say -> where torch, Slurm and Open MPI say it, what holds where none does
TOLD = {
    number_of_ranks: (('WORLD_SIZE', 'SLURM_NTASKS', 'OMPI_COMM_WORLD_SIZE'), 1),
    rank_of: (('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK'), 0),
    ranks_here: (('LOCAL_WORLD_SIZE', 'SLURM_NTASKS_PER_NODE', 'OMPI_COMM_WORLD_LOCAL_SIZE'), None),
}


@pytest.mark.parametrize('told, variable', [(told, variable) for told, (variables, _) in TOLD.items() for variable in variables])
def test_the_launcher_tells_how_many_ranks_there_are_here_and_in_all_and_which_this_is(monkeypatch, told, variable):
    variables, alone = TOLD[told]
    for name in variables:
        monkeypatch.delenv(name, raising=False)
    assert told('pytorch') == alone
    monkeypatch.setenv(variable, '3')
    assert told('pytorch') == 3 and told('none') == alone
