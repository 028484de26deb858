import sys
from datetime import timedelta

import pytest
import torch
from mmengine.config import Config

from bevfusion_plugin.launch.ranks import number_of_ranks, rank_command, start_cpu_ranks


@pytest.fixture
def process_groups(monkeypatch):
    """The process groups that were asked for."""
    asked = []
    monkeypatch.setattr(torch.distributed, 'init_process_group', lambda **settings: asked.append(settings))
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    return asked


def test_processes_on_cpus_form_the_group_that_the_config_names(process_groups):
    cfg = Config(dict(launcher='pytorch', env_cfg=dict(dist_cfg=dict(backend='gloo', timeout=60)),
                      model_wrapper_cfg=dict(find_unused_parameters=True)))
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


def test_a_tool_is_run_alone_or_by_the_launcher():
    assert rank_command(1, 'train.py', 'c.py') == [sys.executable, 'train.py', 'c.py']
    several = rank_command(4, 'train.py', 'c.py')
    assert several[:3] == [sys.executable, '-m', 'torch.distributed.run'] and '--nproc_per_node=4' in several
    assert several[-4:] == ['train.py', 'c.py', '--launcher', 'pytorch']


@pytest.mark.parametrize('variable', ['WORLD_SIZE', 'SLURM_NTASKS', 'OMPI_COMM_WORLD_SIZE'])
def test_the_launcher_tells_how_many_ranks_there_are(monkeypatch, variable):
    for name in ('WORLD_SIZE', 'SLURM_NTASKS', 'OMPI_COMM_WORLD_SIZE'):
        monkeypatch.delenv(name, raising=False)
    assert number_of_ranks('pytorch') == 1
    monkeypatch.setenv(variable, '8')
    assert number_of_ranks('pytorch') == 8 and number_of_ranks('none') == 1
