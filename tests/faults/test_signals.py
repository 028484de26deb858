"""SIGTERM and SIGINT: a checkpoint at the running window's end, and a resumed run that ends with the uninterrupted one's weights."""

import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from faulty_trainings import INSIDE_CONFIG
from tool_loading import load_tool
from torch.utils.data import DataLoader

from bevfusion_plugin.engine.checkpoints import stop_signal
from bevfusion_plugin.engine.checkpoints.stop_signal import StopSignal, deaf_worker

ROOT = Path(__file__).parents[2]
STARTS = itertools.count()
RARELY = {'default_hooks.checkpoint.save_every': 60}


@pytest.fixture(scope='module')
def inside(tmp_path_factory):
    """The config of a run that can stop inside an epoch, and the uninterrupted run's weights."""
    folder = tmp_path_factory.mktemp('inside')
    config = folder / 'inside.py'
    config.write_text(INSIDE_CONFIG)
    assert trained(config, folder / 'whole', '--seed', '0') == 0
    return config, ends(folder / 'whole')


def ends(work_dir):
    content = torch.load(work_dir / 'epoch_3.pth', weights_only=True)
    return {f'{part}.{name}': value for part in ('state_dict', 'ema_state_dict') for name, value in content[part].items()}


def assert_same(found, expected):
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def trained(config, work_dir, *arguments, hook=None, **options):
    """The status of tools/train.py, with one hook more."""
    own = work_dir.parent / f'{next(STARTS)}.py'
    own.write_text(config.read_text() + (f'custom_hooks += [{hook}]\n' if hook else ''))
    options = dict(options, experiment_name=f'signal_{own.stem}')  # MMEngine hands out its message hub by this name
    return load_tool('train').main(
        [str(own), '--work-dir', str(work_dir), *arguments, '--cfg-options', *(f'{key}={value}' for key, value in options.items())]
    )


@pytest.mark.parametrize('number, status', [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
@pytest.mark.parametrize('iteration', [0, 9, 14, 22])
def test_a_training_that_is_told_to_stop_ends_with_its_window_and_goes_on_from_there(number, status, iteration, inside, tmp_path):
    config, whole = inside
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as stopped:
        trained(
            config,
            tmp_path / 'run',
            '--seed',
            '0',
            **RARELY,
            hook=f"dict(type='faulty_trainings.SignalHook', number={int(number)}, iteration={iteration})",
        )
    assert stopped.value.code == status
    done = torch.load(tmp_path / 'run' / 'inside_epoch.pth', weights_only=True)['meta']['iter']
    window = min(iteration // 15 * 15 + (iteration % 15 // 2 + 1) * 2, (iteration // 15 + 1) * 15)
    assert done == window, 'the end of the window that ran'
    assert signal.getsignal(number) == before, 'the signals are given back'
    assert trained(config, tmp_path / 'run', '--resume', **RARELY) == 0
    assert_same(ends(tmp_path / 'run'), whole)


def test_a_second_signal_ends_the_process_at_once(monkeypatch):
    monkeypatch.setattr(stop_signal, 'ONE_REQUEST', -1.0)
    listener, seen = StopSignal(), []
    monkeypatch.setattr(signal, 'default_int_handler', lambda *args: seen.append(args))
    before = signal.signal(signal.SIGINT, lambda *args: seen.append('before'))
    try:

        def training():
            os.kill(os.getpid(), signal.SIGINT)
            assert listener.received == signal.SIGINT and not seen
            os.kill(os.getpid(), signal.SIGINT)

        listener.listen(training)
        training()
        assert seen == ['before'] and not listener.is_listening
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_signal_after_an_error_has_ended_the_training_is_not_swallowed():
    listener, seen = StopSignal(), []
    before = signal.signal(signal.SIGTERM, lambda *args: seen.append('before'))
    try:
        listener.listen(lambda: None)
        os.kill(os.getpid(), signal.SIGTERM)
        assert seen == ['before'] and listener.received is None
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize('has_failed', [False, True])
def test_a_process_forked_meanwhile_ends_by_a_signal_as_without_it(has_failed):
    listener = StopSignal()

    def training():
        fork = multiprocessing.get_context('fork')
        runs = fork.Event()
        child = fork.Process(target=lambda: (runs.set(), time.sleep(60)), daemon=True)
        child.start()
        runs.wait(10)  # Python forgets a signal that comes while it forks
        child.terminate()  # a pool's way to end its workers
        child.join(10)
        status = child.exitcode
        child.kill()
        return status

    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)  # whatever a launcher in this process left
    listener.listen((lambda: None) if has_failed else training)
    try:
        assert training() == -signal.SIGTERM
    finally:
        listener.leave()
        signal.signal(signal.SIGTERM, before)


class SignalledProcess(multiprocessing.get_context('fork').Process):
    def run(self):
        os.kill(os.getpid(), signal.SIGTERM)  # before torch and we have set the worker's own handlers
        super().run()


class SignalledContext(type(multiprocessing.get_context('fork'))):
    Process = SignalledProcess


def test_a_loaders_worker_that_is_just_starting_lives_on():
    listener = StopSignal()

    def training():
        return list(DataLoader([0, 1, 2], num_workers=1, batch_size=None, multiprocessing_context=SignalledContext()))

    listener.listen(training)
    try:
        assert training() == [0, 1, 2]
    finally:
        listener.leave()


def test_all_ranks_stop_at_the_same_window_when_one_is_told_to(inside, tmp_path):
    config = tmp_path / 'ranks.py'
    config.write_text(
        inside[0].read_text() + "env_cfg = dict(dist_cfg=dict(backend='gloo'))\n"
        f"custom_hooks += [dict(type='faulty_trainings.SignalHook', number={int(signal.SIGTERM)}, iteration=10, rank=1)]\n"
    )
    path = os.pathsep.join(map(str, (ROOT, ROOT / 'tests' / 'stand_ins')))
    run = subprocess.run(
        [
            sys.executable,
            '-m',
            'torch.distributed.run',
            '--standalone',
            '--nproc_per_node=2',
            str(ROOT / 'tools' / 'train.py'),
            str(config),
            '--work-dir',
            str(tmp_path / 'run'),
            '--launcher',
            'pytorch',
        ],
        capture_output=True,
        text=True,
        env=dict(os.environ, PYTHONPATH=path, OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES=''),
        timeout=120,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert torch.load(tmp_path / 'run' / 'inside_epoch.pth', weights_only=True)['meta']['iter'] == 12  # of 24


@pytest.mark.parametrize('by_parent', [True, False])
def test_a_loaders_worker_ends_when_its_parent_wants_it_and_not_when_others_do(by_parent):
    worker = multiprocessing.get_context('fork').Process(target=sleeping_worker, daemon=True)
    worker.start()
    time.sleep(0.5)
    if by_parent:
        worker.terminate()
    else:
        subprocess.run(['kill', '-TERM', str(worker.pid)], check=True)
        os.kill(worker.pid, signal.SIGINT)
    worker.join(1)
    assert worker.is_alive() != by_parent
    worker.kill()


def sleeping_worker():
    deaf_worker(0)
    time.sleep(60)
