"""A process that was started by another one does not outlive it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

INTERVAL = 0.2  # seconds between two looks
GRACE = 300.0  # seconds from SIGTERM to SIGKILL: time to finish a window and write a checkpoint


@contextmanager
def ends_with_parent(sign: signal.Signals = signal.SIGTERM) -> Iterator[None]:
    """Within ``with ends_with_parent():`` this process gets ``sign`` when the one that started it is gone, and SIGKILL if it is
    still there ``GRACE`` seconds later.

    A process killed by SIGKILL cannot end its children itself, and what is left of a killed launcher would go on computing. The
    kernel gives an orphan another parent, which is what a thread of this process looks for.
    """
    done = watch_parent(sign)
    try:
        yield
    finally:
        done.set()


def watch_parent(sign: signal.Signals) -> threading.Event:
    """Start the thread that sends ``sign`` when the parent is gone; it ends when the event that is returned is set."""
    done = threading.Event()
    threading.Thread(target=_watch, args=(os.getppid(), sign, done), name='parent watch', daemon=True).start()
    return done


def _watch(parent: int, sign: signal.Signals, done: threading.Event) -> None:
    while not done.wait(INTERVAL):
        if os.getppid() != parent:
            os.kill(os.getpid(), sign)
            if not done.wait(GRACE):
                os.kill(os.getpid(), signal.SIGKILL)
            return
