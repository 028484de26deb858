"""tools/train.py on the GPUs of its machine, pretended ones, and in several real processes on a CPU."""

import os
import re
import signal
import sys
import time

import pytest
import torch
from launched_tools import TRAIN
from mmengine.config import Config
from tool_loading import load_tool

from bevfusion_plugin.launch import own_ranks as own_ranks_module
from bevfusion_plugin.launch.command_line import UsageError
from bevfusion_plugin.launch.own_ranks import batch_remark, own_ranks, start_ranks


@pytest.fixture
def machine(monkeypatch):
    """Pretends a number of GPUs."""

    def has(gpus):
        monkeypatch.setattr(torch.cuda, 'is_available', lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, 'device_count', lambda: gpus)

    return has


def recipe(num_gpus=4, samples=3, accumulative_counts=8, **wrapper):
    return Config(
        dict(
            **(dict(num_gpus=num_gpus) if num_gpus else {}),
            train_dataloader=dict(batch_size=samples),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1), accumulative_counts=accumulative_counts, **wrapper),
        )
    )


@pytest.mark.parametrize(
    'visible, named, flag, ranks',
    [
        (0, 4, None, 1),
        (0, None, None, 1),
        (0, 4, 2, 2),
        (1, 4, None, 1),
        (2, 4, None, 2),
        (4, 4, None, 4),
        (8, 4, None, 4),
        (8, 4, 8, 8),
        (8, 4, 1, 1),
        (8, None, None, 8),
        (1, None, None, 1),
    ],
)
def test_a_run_takes_every_gpu_up_to_what_the_config_names(machine, visible, named, flag, ranks):
    machine(visible)
    assert own_ranks(recipe(named), 'none', flag) == ranks


def test_gpus_that_are_not_there_are_refused(machine):
    machine(2)
    with pytest.raises(UsageError, match='--gpus 4: torch sees 2 GPUs on this machine'):
        own_ranks(recipe(), 'none', 4)


def test_a_launchers_processes_start_no_more(machine, monkeypatch):
    machine(8)
    monkeypatch.setenv('WORLD_SIZE', '4')
    assert own_ranks(recipe(), 'pytorch', None) == own_ranks(recipe(), 'pytorch', 4) == 1
    with pytest.raises(UsageError, match='--gpus 2, but --launcher pytorch has started 4 processes'):
        own_ranks(recipe(), 'pytorch', 2)


@pytest.mark.parametrize(
    'ranks, said',
    [
        (4, None),
        (
            2,
            'has 2 processes, and the config names num_gpus=4: an update sees 2 x 3 x A8 = 48 samples, not the 96 of 4 x 3 x A8 = 96; '
            '--cfg-options optim_wrapper.accumulative_counts=16 keeps it',
        ),
        (1, 'has 1 process, .*1 x 3 x A8 = 24 samples, not the 96.*accumulative_counts=32 keeps it'),
        (3, '3 x 3 x A8 = 72 samples, not the 96 .*; nearest plans: .*3 x 2 x A16 = 96'),
        (8, '8 x 3 x A8 = 192 samples, not the 96 .*accumulative_counts=4 keeps it'),
    ],
)
def test_another_number_says_what_batch_it_makes_and_what_keeps_it(ranks, said):
    remark = batch_remark(recipe(), ranks)
    assert remark is None if said is None else re.search(said, remark), remark


def test_a_plan_that_follows_the_ranks_is_as_planned():
    assert batch_remark(recipe(4, 2, 'auto', total_batch_size=32), 2).endswith('an update sees 2 x 2 x A8 = 32 samples, as planned')


@pytest.mark.parametrize(
    'cfg',
    [recipe(None), Config(dict(num_gpus=4)), recipe(4, 2, 'auto', total_batch_size=33), recipe(4, 'x')],
    ids=['no number', 'no training', 'no whole plan', 'nonsense'],
)
def test_without_a_plan_nothing_is_said(cfg):
    assert batch_remark(cfg, 2) is None


# ---- the tool


def test_the_tool_starts_itself_once_a_gpu_and_hands_its_flags_on(machine, monkeypatch, config, tmp_path):
    started = []
    tool = load_tool('train')
    machine(2)
    monkeypatch.setattr(tool, 'start_ranks', lambda *args: started.append(args) or 7)
    argv = [str(config('num_gpus = 4\n')), '--work-dir', str(tmp_path / 'run'), '--seed', '3']
    assert tool.main(argv) == 7
    assert started == [([sys.executable, tool.__file__, *argv, '--launcher', 'pytorch'], 2)]
    assert not (tmp_path / 'run').exists()


def test_what_is_missing_is_said_once_before_any_rank_starts(machine, monkeypatch, config, capsys):
    tool = load_tool('train')
    machine(2)
    monkeypatch.setattr(tool, 'start_ranks', lambda *args: pytest.fail('started'))
    assert tool.main([str(config("load_from = 'no.pth'\n"))]) == 2 and capsys.readouterr().err.count('no.pth') == 1


on_a_cpu = pytest.mark.skipif(torch.cuda.is_available(), reason='the processes are to meet on the CPU')


@on_a_cpu
def test_two_processes_train_as_one_does(launch, config, tmp_path):
    path = config()
    runs = [launch([*TRAIN, path, '--work-dir', tmp_path / name, *flags]) for name, flags in dict(one=[], two=['--gpus', '2']).items()]
    assert [run.end() for run in runs] == [0, 0], runs[1].output[-3000:]
    one, two = (torch.load(tmp_path / name / 'epoch_2.pth')['state_dict'] for name in ('one', 'two'))
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-12, atol=1e-14)
    assert 'an update sees 2 x 2 x A2 = 8 samples' in runs[1].output


def standing(tmp_path, iteration=4):
    return f"custom_hooks.append(dict(type='failing_ranks.StandingHook', go={str(tmp_path / 'go')!r}, iteration={iteration}))\n"


@on_a_cpu
@pytest.mark.parametrize('sign, statuses', [(signal.SIGINT, (130,)), (signal.SIGTERM, (0, 143))])
def test_a_signal_to_the_tool_reaches_every_rank(launch, config, tmp_path, sign, statuses):
    run = launch([*TRAIN, config(standing(tmp_path)), '--work-dir', tmp_path / 'run', '--gpus', '2'])
    run.read_until('stands still', times=2)
    os.kill(run.process.pid, sign)
    (tmp_path / 'go').touch()
    assert run.end() in statuses, run.output[-3000:]


@on_a_cpu
def test_ranks_of_a_killed_tool_end(launch, config, tmp_path):
    run = launch([*TRAIN, config(standing(tmp_path)), '--work-dir', tmp_path / 'run', '--gpus', '2'])
    run.read_until('stands still', times=2)
    run.process.kill()
    run.read_until('SIGTERM: the training stops')
    (tmp_path / 'go').touch()
    run.end()
    assert not (tmp_path / 'run' / 'epoch_2.pth').exists()


# ---- how they end

RANK = 'import os, signal, sys, time\nrank = int(os.environ["RANK"])\n'


@pytest.mark.parametrize(
    'script, status',
    [
        ('pass', 0),
        ('sys.exit(3 if rank == 1 else 0)', 3),
        ('rank == 1 and os.kill(os.getpid(), signal.SIGKILL)\ntime.sleep(600)', 137),
        ('rank == 1 and sys.exit(2)\ntime.sleep(600)', 2),
    ],
    ids=['all well', 'one fails at the end', 'one is killed', 'one fails'],
)
def test_the_status_is_that_of_the_first_rank_that_failed_and_the_others_end(capsys, script, status):
    assert start_ranks([sys.executable, '-c', RANK + script], 3) == status
    assert ('rank 1 was ended by SIGKILL' in capsys.readouterr().err) == (status == 137)


def test_ranks_that_do_not_end_are_killed(monkeypatch):
    monkeypatch.setattr(own_ranks_module, 'GRACE', 0.5)
    stubborn = 'rank == 1 and (time.sleep(1.5), sys.exit(2))\nsignal.signal(signal.SIGTERM, lambda *_: None)\nwhile True: time.sleep(1)'
    started = time.monotonic()
    assert start_ranks([sys.executable, '-c', RANK + stubborn], 2) == 2 and time.monotonic() - started < 100


def test_ranks_know_each_other(tmp_path):
    names = ('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'LOCAL_WORLD_SIZE', 'MASTER_ADDR')
    script = f'import os, pathlib\npathlib.Path({str(tmp_path)!r}, os.environ["RANK"]).write_text(" ".join(map(os.environ.get, {names!r})))'
    assert start_ranks([sys.executable, '-c', script], 2) == 0
    assert [(tmp_path / str(rank)).read_text() for rank in range(2)] == ['0 0 2 2 127.0.0.1', '1 1 2 2 127.0.0.1']
