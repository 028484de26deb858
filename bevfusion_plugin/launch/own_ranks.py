"""Ranks that a tool starts by itself: how many this machine gives, what that makes of the batch, and how they end together."""

from __future__ import annotations

import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from mmengine.config import Config

from bevfusion_plugin.doctor.case import Case
from bevfusion_plugin.doctor.reading.config import count
from bevfusion_plugin.launch.command_line import UsageError
from bevfusion_plugin.launch.ranks import OWN_START, number_of_ranks
from bevfusion_plugin.plan.batch_plan import nearest_plans

INTERVAL = 0.1  # seconds between two looks at the ranks
GRACE = 30.0  # seconds that the other ranks get to end after one has failed, as torch.distributed.run gives them


def visible_gpus() -> int:
    """GPUs that torch sees, 0 without any."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def own_ranks(cfg: Config, launcher: str, gpus: int | None) -> int:
    """Processes that a run without a launcher has on this machine; with one 1, this process.

    One for every visible GPU, up to the config's ``num_gpus`` where it names one; without a GPU one.

    Args:
        cfg: The whole config.
        launcher: What ``--launcher`` says.
        gpus: What ``--gpus`` says, if it does: so many GPUs, or so many processes where there is no GPU.

    Raises:
        UsageError: If there are not as many as ``gpus``, or the launcher has started another number.
    """
    visible = visible_gpus()
    if launcher != 'none':
        if gpus not in (None, number_of_ranks(launcher)):
            raise UsageError(
                f'--gpus {gpus}, but --launcher {launcher} has started {number_of_ranks(launcher)} processes; leave one of the two out'
            )
        return 1
    if gpus is not None:
        if 0 < visible < gpus:
            raise UsageError(f'--gpus {gpus}: torch sees {visible} GPU{"s" * (visible > 1)} on this machine')
        return gpus
    return max(1, min(visible, count(cfg.get('num_gpus')) or visible))


def planned_gpus(cfg: Config) -> int:
    """GPUs that a plan for ``cfg`` is made for: its ``num_gpus``, else those of this machine, at least one."""
    return count(cfg.get('num_gpus')) or max(1, visible_gpus())


def batch_remark(cfg: Config, ranks: int) -> str | None:
    """What another number of ranks than the config's ``num_gpus`` makes of the total batch, and what would keep it.

    None where it is the same number, the config names none, or its plan cannot be worked out (the doctor says why).
    """
    named = count(cfg.get('num_gpus'))
    if named in (None, ranks):
        return None
    try:
        planned, plan = Case(cfg, named).plan, Case(cfg, ranks).plan
    except ValueError:
        return None
    if planned is None or plan is None:
        return None
    found = f'this run has {ranks} process{"es" * (ranks > 1)}, and the config names num_gpus={named}: an update sees {plan} samples'
    total, b = planned.total_batch_size, plan.samples_per_rank
    if plan.total_batch_size == total:
        return f'{found}, as planned'
    counts, rest = divmod(total, ranks * b)
    keep = (
        f'--cfg-options optim_wrapper.accumulative_counts={counts} keeps it'
        if counts and not rest
        else f'nearest plans: {", ".join(map(str, nearest_plans(ranks, total, samples_per_rank=b)))}'
    )
    return f'{found}, not the {total} of {planned}; {keep}'


def start_ranks(command: Sequence[str], ranks: int) -> int:
    """Exit status of ``command``, run as all ranks of this machine: 0 if all ended with 0, else that of the first that did not.

    They find each other by the variables that ``torch.distributed.run`` sets, so the command takes ``--launcher pytorch``. A rank that
    fails ends the others. SIGINT and SIGTERM are handed on to every rank, and what the ranks make of them is the status; each is in
    a session of its own, so that Ctrl-C reaches it once. (``torch.distributed.run`` has no status of its ranks for its caller, and
    kills them 30 s after a signal, which may be in the midst of their last checkpoint.)

    Args:
        command: Program and arguments.
        ranks: How many.
    """
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    common = dict(
        {'OMP_NUM_THREADS': '1', **os.environ},
        MASTER_ADDR='127.0.0.1',
        MASTER_PORT=str(port),
        WORLD_SIZE=str(ranks),
        LOCAL_WORLD_SIZE=str(ranks),
        **{OWN_START: '1'},
    )
    processes: list[subprocess.Popen] = []
    with handed_on(processes) as signals:
        for rank in range(ranks):
            processes.append(subprocess.Popen(command, env=dict(common, RANK=str(rank), LOCAL_RANK=str(rank)), start_new_session=True))
        failure = first_failure(processes)
        if failure is None:
            return 0
        rank, status = failure
        if not signals:  # after a signal they are ending already, and another one would cut that short
            if status < 0:  # one that ends by itself says why
                print(
                    f'rank {rank} was ended by {signal.Signals(-status).name} (SIGKILL: often for want of memory); the others are ended '
                    'too',
                    file=sys.stderr,
                    flush=True,
                )
            hand_on(processes, signal.SIGTERM)
            wait_for(processes, GRACE)
            hand_on(processes, signal.SIGKILL)
        wait_for(processes)
    return status if status > 0 else 128 - status  # as a shell counts a signal


def first_failure(processes: Sequence[subprocess.Popen]) -> tuple[int, int] | None:
    """The first process that ends with another return code than 0, and that code; None once all have ended with 0."""
    while True:
        codes = [process.poll() for process in processes]
        for index, code in enumerate(codes):
            if code:
                return index, code
        if None not in codes:
            return None
        time.sleep(INTERVAL)


def wait_for(processes: Sequence[subprocess.Popen], seconds: float = math.inf) -> None:
    """Return when all have ended, or after so many seconds."""
    deadline = time.monotonic() + seconds
    while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
        time.sleep(INTERVAL)


@contextmanager
def handed_on(processes: Sequence[subprocess.Popen]) -> Iterator[list[int]]:
    """Within ``with handed_on(processes) as signals:`` SIGINT and SIGTERM go to the processes; ``signals`` lists those that came."""
    came: list[int] = []

    def hand(sign: int, frame: object) -> None:
        came.append(sign)
        hand_on(processes, sign)

    before = {sign: signal.signal(sign, hand) for sign in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)


def hand_on(processes: Sequence[subprocess.Popen], sign: int) -> None:
    """Send a signal to those that still run; SIGKILL also to the processes that they have started."""
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, sign) if sign == signal.SIGKILL else process.send_signal(sign)
