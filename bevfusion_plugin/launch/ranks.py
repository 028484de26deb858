"""The processes of a run: how they are started, how many there are, how they find each other without a GPU."""
from __future__ import annotations

import datetime
import os
import sys
from pathlib import Path

import torch
from mmengine.config import Config

WORLD_SIZES = ('WORLD_SIZE', 'SLURM_NTASKS', 'OMPI_COMM_WORLD_SIZE')  # as torchrun, Slurm and Open MPI set them


def number_of_ranks(launcher: str) -> int:
    """Processes that the launcher started; 1 without one."""
    return 1 if launcher == 'none' else next((int(os.environ[name]) for name in WORLD_SIZES if os.environ.get(name)), 1)


def set_local_rank(flag: int) -> None:
    """Tell MMEngine this process's number on its machine: as the launcher's environment has it, else as the flag says."""
    os.environ.setdefault('LOCAL_RANK', os.environ.get('OMPI_COMM_WORLD_LOCAL_RANK', str(flag)))


def start_cpu_ranks(cfg: Config) -> None:
    """Join the processes that ``torch.distributed.run`` started, where there is no GPU: MMEngine's own start asks for one each.

    Its Runner takes over a process group that is there; its wrapper of the model is told not to look for a device.
    """
    if cfg.launcher != 'pytorch' or torch.cuda.is_available():
        return
    group = dict(cfg.get('env_cfg', {}).get('dist_cfg', {}))
    if 'timeout' in group:
        group['timeout'] = datetime.timedelta(seconds=group['timeout'])
    torch.distributed.init_process_group(**group)
    defaults = dict(broadcast_buffers=False, find_unused_parameters=cfg.get('find_unused_parameters', False))  # MMEngine's
    cfg.model_wrapper_cfg = {**defaults, **(cfg.get('model_wrapper_cfg') or {}), 'device_ids': None}


def rank_command(processes: int, tool: str | Path, *args: str) -> list[str]:
    """Command that runs a tool with MM's ``--launcher`` flag in one process, or in several on this machine at a free port."""
    if processes == 1:
        return [sys.executable, str(tool), *args]
    return [sys.executable, '-m', 'torch.distributed.run', '--standalone', f'--nproc_per_node={processes}', str(tool),
            *args, '--launcher', 'pytorch']
