"""One process at a time in a folder, with real processes."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bevfusion_plugin import folder_lock
from bevfusion_plugin.folder_lock import FolderInUse, described, held_folder

ROOT = Path(__file__).parents[1]
HOLD = """
import os, sys, time
from bevfusion_plugin.folder_lock import held_folder
with held_folder(sys.argv[1], 'lock', 'training'):
    child = os.fork()
    print('held' if child else '', flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of ``tmp_path``, with a forked child, as workers of a data loader are."""
    process = subprocess.Popen(
        [sys.executable, '-c', HOLD, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=dict(os.environ, PYTHONPATH=str(ROOT)),
    )
    while process.stdout.readline() != 'held\n':
        assert process.poll() is None
    yield process
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()


def enters(folder, patience=0.0):
    with held_folder(folder, 'lock', 'training', patience, 'choose another'):
        return True


def test_a_second_process_is_refused_and_told_who_holds_the_folder(tmp_path, holder):
    with pytest.raises(FolderInUse, match=rf'{tmp_path} is in use by the training of process {holder.pid} on .*choose another'):
        enters(tmp_path)


def test_a_killed_process_blocks_nobody_even_while_its_children_live(tmp_path, holder):
    os.kill(holder.pid, signal.SIGKILL)
    os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)
    assert (tmp_path / 'lock').is_file() and enters(tmp_path)


def test_a_second_process_waits_as_long_as_it_is_told_to(tmp_path, holder, monkeypatch):
    said = []

    def pause(seconds):
        os.kill(holder.pid, signal.SIGKILL)
        os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)

    monkeypatch.setattr(folder_lock, 'print_log', lambda text, *_: said.append(text))
    monkeypatch.setattr(time, 'sleep', pause)
    assert enters(tmp_path, None) and len(said) == 1 and 'waiting for it' in said[0]


def test_the_lock_is_one_of_the_process_and_leaves_nothing_behind(tmp_path):
    with held_folder(tmp_path, 'lock', 'training'):
        assert json.loads((tmp_path / 'lock').read_text())['pid'] == os.getpid()
        assert enters(tmp_path) and (tmp_path / 'lock').is_file(), 'the first holder keeps it'
    assert not list(tmp_path.iterdir()) and enters(tmp_path)


def test_it_is_free_after_an_error(tmp_path):
    with pytest.raises(LookupError), held_folder(tmp_path, 'lock', 'training'):
        raise LookupError
    assert not list(tmp_path.iterdir()) and enters(tmp_path)


def test_a_lock_on_a_file_that_its_holder_removed_meanwhile_is_taken_again(tmp_path, monkeypatch):
    lock, taken = fcntl.lockf, []

    def late(file, operation):
        if not taken:
            (tmp_path / 'lock').unlink()
        taken.append(file)
        lock(file, operation)

    monkeypatch.setattr(fcntl, 'lockf', late)
    with held_folder(tmp_path, 'lock', 'training'):
        assert len(taken) == 2 and (tmp_path / 'lock').stat().st_size


def test_a_file_system_without_locks_is_said_and_does_not_stop_anybody(tmp_path, monkeypatch):
    def no_locks(file, operation):
        raise OSError(errno.ENOLCK, 'No locks available')

    said = []
    monkeypatch.setattr(fcntl, 'lockf', no_locks)
    monkeypatch.setattr(folder_lock, 'print_log', lambda text, *_: said.append(text))
    assert enters(tmp_path) and 'without locks (No locks available)' in said[0]


@pytest.mark.parametrize('content', [b'', b'{"pid": 3', b'[]', b'{}', b'\xff'])
def test_a_holder_that_has_not_written_who_it_is_is_described_all_the_same(content):
    assert described(content) == 'a process that has just begun'
