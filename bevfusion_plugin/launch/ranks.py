"""The processes of a run: how they are started, how many there are, how they find each other without a GPU and part again."""

from __future__ import annotations

import ctypes
import datetime
import gc
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.dist import is_distributed
from mmengine.logging import MMLogger
from mmengine.utils import digit_version
from torch.distributed.elastic.multiprocessing.errors.error_handler import ErrorHandler

from bevfusion_plugin.engine.checkpoints.stop_signal import TrainingStopped
from bevfusion_plugin.parent_watch import ends_with_parent

LOCAL_SIZES = ('LOCAL_WORLD_SIZE', 'SLURM_NTASKS_PER_NODE', 'OMPI_COMM_WORLD_LOCAL_SIZE')  # those of one machine
OWN_START = 'BEVFUSION_OWN_RANKS'  # set for the ranks that a tool started by itself
RANKS = ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK')
WORLD_SIZES = ('WORLD_SIZE', 'SLURM_NTASKS', 'OMPI_COMM_WORLD_SIZE')  # as torchrun, Slurm and Open MPI set them
PATIENCE = 10.0  # seconds that a failed rank's unfinished communication gets; it may wait for others that will never come
# Whether a group lets go of the interpreter's lock while it waits for its threads: torch 2.8 does and 2.4 does not.
FREES_LOCK = digit_version(torch.__version__) >= digit_version('2.8.0')


def number_of_ranks(launcher: str) -> int:
    """Processes that the launcher started; 1 without one."""
    return 1 if launcher == 'none' else next((int(os.environ[name]) for name in WORLD_SIZES if os.environ.get(name)), 1)


def rank_of(launcher: str) -> int:
    """This process's number among all of the run, before they have met; 0 without a launcher."""
    return 0 if launcher == 'none' else next((int(os.environ[name]) for name in RANKS if os.environ.get(name)), 0)


def ranks_here(launcher: str) -> int | None:
    """Processes that the launcher started on this machine; None if it started none or does not say."""
    if launcher == 'none':
        return None
    return next((int(os.environ[name]) for name in LOCAL_SIZES if os.environ.get(name, '').isdigit()), None)


def set_local_rank(flag: int) -> None:
    """Tell MMEngine this process's number on its machine: as the launcher's environment has it, else as the flag says."""
    os.environ.setdefault('LOCAL_RANK', os.environ.get('OMPI_COMM_WORLD_LOCAL_RANK', str(flag)))


@contextmanager
def process_group(cfg: Config) -> Iterator[None]:
    """Within ``with process_group(cfg):`` this process is one of the run's, and none leaves before all have finished.

    The group is destroyed at the end, whether started here or by MMEngine's Runner. A process that exits with one is sometimes
    aborted ("terminate called without an active exception"): a thread of gloo's frees its last work while the interpreter shuts
    down, and cannot get the lock it needs for that. After an error nobody is waited for, and the error goes on as it came, noted
    where people look for it, see :func:`note_failure`. A process whose launcher was killed ends too.
    """
    # Slurm ends its processes itself, and a shell that has started them may go.
    has_launcher = cfg.get('launcher') == 'pytorch' and ('TORCHELASTIC_RUN_ID' in os.environ or OWN_START in os.environ)
    # Where others are to go on without this machine, it must not tell them to stop with a checkpoint, as SIGTERM does.
    is_elastic = os.environ.get('TORCHELASTIC_MAX_RESTARTS', '0') != '0'
    sign = signal.SIGKILL if is_elastic else signal.SIGTERM
    with ends_with_parent(sign) if has_launcher else nullcontext():
        yield from _in_group(cfg)


def _in_group(cfg: Config) -> Iterator[None]:
    try:
        start_cpu_ranks(cfg)
        yield
        leave_together()
    except TrainingStopped:  # by a signal, all processes at the same window
        leave_together()
        raise
    except BaseException as error:
        if cfg.get('launcher', 'none') != 'none' and isinstance(error, Exception):
            note_failure(cfg, error)
        if is_distributed():
            destroy_failed_group(error)
        raise


def leave_together() -> None:
    """Leave the process group once all have come to its end."""
    if is_distributed():
        torch.distributed.barrier()  # who leaves earlier may take the store away from the others
        destroy_group()


def note_failure(cfg: Config, error: Exception) -> None:
    """Write why this process failed into the run's text log, which is the main process's, and where ``torch.distributed.run`` reads it.

    The others fail a moment later, because this one no longer answers them, and say no more than that. ``torch.distributed.run``
    prints the earliest error of its machine as the root cause.
    """
    log = MMLogger.get_current_instance().log_file  # MMEngine names it on every rank and writes to it on the main one
    if log and Path(log).is_file():
        text = ''.join(traceback.format_exception(error))
        with open(log, 'a') as file:
            file.write(f'{time.strftime("%Y/%m/%d %H:%M:%S")} - rank {rank_of(cfg.launcher)} on {socket.gethostname()} ended with\n{text}')
    if os.environ.get('TORCHELASTIC_ERROR_FILE'):
        ErrorHandler().record_exception(error)


def destroy_group() -> None:
    """Destroy the process group and end its threads; what still uses it must be garbage by now.

    gloo's threads end with the last reference to the group. A Runner and its DistributedDataParallel refer to each other, so
    they are collected first. The group, freed last and by itself, waits for its threads without holding the interpreter.
    """
    gc.collect()
    torch.distributed.destroy_process_group()


def destroy_failed_group(error: BaseException) -> None:
    """Destroy the process group of a run that ended with ``error``, without the other processes and in bounded time.

    nccl's communicators are aborted, as it takes all processes to destroy them. gloo knows no abort: a thread that waits for
    another process is left behind after ``PATIENCE``, while the interpreter's own exit would wait for it till gloo gives up.
    The error keeps its traceback and loses its frames' local variables, which hold the Runner.
    """
    raised: BaseException | None = error
    while raised is not None:
        traceback.clear_frames(raised.__traceback__)
        raised = raised.__context__
    if torch.distributed.get_backend() == 'nccl' and hasattr(torch.distributed.group.WORLD, 'abort'):
        getattr(torch.distributed.group.WORLD, 'abort')()  # before torch had it, to destroy was to abort
    if not FREES_LOCK:  # a wait that nobody can interrupt: the group is never freed, and the process ends without it
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(torch.distributed.group.WORLD))
    leaving = threading.Thread(target=destroy_group, daemon=True)
    leaving.start()
    leaving.join(PATIENCE)


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
    return [
        sys.executable,
        '-m',
        'torch.distributed.run',
        '--standalone',
        f'--nproc_per_node={processes}',
        str(tool),
        *args,
        '--launcher',
        'pytorch',
    ]
