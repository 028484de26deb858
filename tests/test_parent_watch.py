"""A process whose parent is killed ends, at once or in order."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, '-c', sys.argv[1]])
print(child.pid, flush=True)
child.wait()
"""
CHILD = """
import signal, time
from bevfusion_plugin import parent_watch
{before}
with parent_watch.ends_with_parent():
    print('watching', flush=True)
    time.sleep(600)
{after}
"""
SAVES = "signal.signal(signal.SIGTERM, lambda *_: print('saves', flush=True))"
STUCK = "parent_watch.GRACE = 0.5; signal.signal(signal.SIGTERM, lambda *_: None)"


def output_of_an_orphan(child):
    """All that a child printed whose parent was killed when it watched; this waits for the child's end."""
    parent = subprocess.Popen(
        [sys.executable, '-c', PARENT, child], stdout=subprocess.PIPE, text=True, env=dict(os.environ, PYTHONPATH=str(ROOT))
    )
    lines = [parent.stdout.readline() for _ in range(2)]
    assert 'watching\n' in lines
    parent.kill()
    parent.wait()
    try:
        return parent.communicate(timeout=60)[0]  # the pipe is open as long as the child is
    finally:
        child = next(int(line) for line in lines if line.strip().isdigit())
        if Path(f'/proc/{child}').exists():
            os.kill(child, signal.SIGKILL)


def test_an_orphan_ends():
    assert output_of_an_orphan(CHILD.format(before='', after="print('trains on', flush=True)")) == ''


def test_an_orphan_that_ignores_it_is_killed():
    loop = 'while True: time.sleep(1)'
    assert output_of_an_orphan(CHILD.format(before=STUCK, after='').replace('time.sleep(600)', loop)) == ''


def test_nobody_is_watched_afterwards():
    body = CHILD.format(before=SAVES, after='').replace('time.sleep(600)', 'pass') + 'time.sleep(1.5)\nprint("whole", flush=True)'
    assert output_of_an_orphan(body) == 'whole\n'


@pytest.mark.parametrize('sign', ['SIGTERM', 'SIGKILL'])
def test_the_signal_is_the_one_asked_for(sign):
    handler = "signal.signal(signal.SIGTERM, lambda *_: (print('saves', flush=True), sys.exit()))"
    body = f"""
import signal, sys, time
from bevfusion_plugin.parent_watch import watch_parent
{handler}
watch_parent(signal.{sign})
print('watching', flush=True)
time.sleep(600)
"""
    assert output_of_an_orphan(body) == ('saves\n' if sign == 'SIGTERM' else '')
