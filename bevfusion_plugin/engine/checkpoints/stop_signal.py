"""A request from outside to end a training: Ctrl-C, ``kill``, ``scancel``, a machine that is taken back."""

from __future__ import annotations

import os
import signal
import threading
import time
from functools import partial
from types import FrameType
from typing import Any

from mmengine.logging import print_log
from torch.utils.data import DataLoader

# What a training ends with: 0 tells a scheduler that all is well, 130 is a shell's for Ctrl-C.
EXIT_STATUS = {signal.SIGTERM: 0, signal.SIGINT: 130}
ONE_REQUEST = 2.0  # seconds: a terminal and a launcher both pass Ctrl-C on


class TrainingStopped(SystemExit):
    """A training has saved its checkpoint and ends because it was told to; ``code`` is the exit status."""


class StopSignal:
    """Remembers SIGTERM and SIGINT while a training runs, so that it can end at a good moment; a second one ends it at once.

    Attributes:
        received: The signal that came; None so far.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._since = 0.0
        self._before: dict[signal.Signals, Any] = {}
        self._process = os.getpid()
        self._code: Any = None

    @property
    def is_listening(self) -> bool:
        """Whether the signals come here."""
        return bool(self._before)

    def listen(self, function: Any) -> None:
        """Begin; only in the main thread, which alone can.

        Args:
            function: A signal that comes while this method is not running is not for the training: an error has ended it.
        """
        self.received, self._process, self._code = None, os.getpid(), function.__code__
        if not self._before and threading.current_thread() is threading.main_thread():
            self._before = {each: signal.signal(each, self._handle) for each in EXIT_STATUS}

    def leave(self) -> None:
        """Give the signals back to whoever had them."""
        for each, handler in self._before.items():
            signal.signal(each, handler)
        self._before = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        is_forked = os.getpid() != self._process
        if is_forked and runs(DataLoader.__iter__.__code__, frame):
            return  # a data loader is just starting this worker, which the training ends
        is_second = self.received is not None and time.monotonic() - self._since > ONE_REQUEST
        if is_forked or is_second or not runs(self._code, frame):
            self.leave()
            os.kill(os.getpid(), number)  # as it would have been without us
        elif self.received is None:
            self.received, self._since = signal.Signals(number), time.monotonic()
            print_log(
                f"{self.received.name}: the training stops with a checkpoint at the running window's end; once more ends it at once",
                logger='current',
            )


def runs(code: Any, frame: FrameType | None) -> bool:
    """Whether ``frame`` is inside a call of the function with that code."""
    while frame is not None and frame.f_code is not code:
        frame = frame.f_back
    return frame is not None


def keep_workers(loader: DataLoader) -> None:
    """Let the workers of ``loader`` ignore the signals: a terminal and Slurm send them to every process, and the window needs them."""
    init = loader.worker_init_fn
    if getattr(init, 'func', None) is not deaf_worker:
        keywords = dict(init.keywords, init=init.func) if isinstance(init, partial) and not init.args else dict(init=init)
        loader.worker_init_fn = partial(deaf_worker, **keywords)


def deaf_worker(worker_id: int, init: Any = None, **kwargs: Any) -> None:
    """A worker's start, ``init`` as the loader had it, without an ear for the signals, but for its parent's SIGTERM, which ends it.

    Args:
        worker_id: Its number.
        init: The loader's own ``worker_init_fn``.
        **kwargs: Its keywords.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    threading.Thread(target=end_by_parent, args=(os.getppid(),), daemon=True).start()
    if init is not None:
        init(worker_id, **kwargs)


def end_by_parent(parent: int) -> None:
    """Wait for SIGTERM, which this process blocks, and end it at the one that its parent sends: Python's way to end its children."""
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != parent:
        pass
    os._exit(0)
