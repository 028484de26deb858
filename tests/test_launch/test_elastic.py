"""torch.distributed.run's elastic restart: a machine is lost, the training goes on with what is left."""

import os
import signal
import sys

import pytest
import torch
from launched_tools import ROOT, TOY, TRAIN, Launched, free_port

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason='the processes are to meet on the CPU')

EPOCHS = 3
MORE = """
train_cfg.update(max_epochs=3)
custom_hooks.append(dict(type='failing_ranks.StandingHook', go={go!r}, iteration=4, ranks=2))  # 4 iterations an epoch with 2 ranks
"""
# Quicker than the defaults to notice that a machine is gone; seconds.
RENDEZVOUS = 'last_call_timeout=4,keep_alive_interval=1,keep_alive_max_attempt=3'


def machine(port, is_host, *arguments):
    """One of one or two machines with one rank, as README gives the command; the host is where they meet and must live on."""
    return Launched(
        [
            sys.executable,
            '-m',
            'torch.distributed.run',
            '--nnodes=1:2',
            '--nproc-per-node=1',
            '--max-restarts=3',
            '--rdzv-backend=c10d',
            f'--rdzv-endpoint=127.0.0.1:{port}',
            f'--rdzv-conf=is_host={is_host},{RENDEZVOUS}',
            ROOT / 'tools' / 'train.py',
            *arguments,
            '--launcher',
            'pytorch',
            '--resume',
        ]
    )


def test_a_lost_machine_changes_neither_total_batch_nor_lr_nor_updates(tmp_path):
    config = tmp_path / 'toy.py'
    config.write_text(TOY + MORE.format(go=str(tmp_path / 'go')))
    port = free_port()
    lost, left = (machine(port, is_host, config, '--work-dir', tmp_path / 'run') for is_host in (0, 1))
    alone = Launched([*TRAIN, config, '--work-dir', tmp_path / 'alone'])
    try:
        for each in (lost, left):
            each.read_until('of 2 stands still')
        os.killpg(lost.process.pid, signal.SIGKILL)
        lost.end()
        (tmp_path / 'go').touch()
        assert left.end() == 0, left.output[-5000:]
        assert alone.end() == 0, alone.output[-3000:]
    finally:
        for each in (lost, left, alone):
            each.kill()
    logs = ''.join(path.read_text() for path in (tmp_path / 'run').glob('*/*.log'))
    assert 'an update sees 2 x 2 x A2 = 8 samples' in logs and 'was 2 x 2 x A2 = 8, is 1 x 2 x A4 = 8' in logs
    got, expected = (torch.load(tmp_path / name / f'epoch_{EPOCHS}.pth') for name in ('run', 'alone'))
    assert got['optimizer']['window'] == expected['optimizer']['window'] == dict(position=0, updates=6, skipped_updates=0)
    assert got['param_schedulers'] == expected['param_schedulers']
    for key, value in expected['state_dict'].items():
        torch.testing.assert_close(got['state_dict'][key], value, rtol=1e-12, atol=1e-14)
