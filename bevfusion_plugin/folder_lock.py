"""One process at a time in a folder: the lock, who holds it, and what becomes of it when that process is killed."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmengine.logging import print_log

PAUSE = 1.0  # seconds between two attempts
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # of a file system that knows none
_HELD: set[Path] = set()


class FolderInUse(OSError):
    """Another process works in the folder; the message names it."""


@contextmanager
def held_folder(folder: str | Path, name: str, work: str, patience: float | None = None, mend: str = '') -> Iterator[None]:
    """Within ``with held_folder(...):`` no other process holds this lock of the folder.

    The kernel frees the lock when the process ends, however it ends, so a killed one blocks nobody. Forked children do not inherit
    it. Within one process a second ``with`` of the same lock passes: the first keeps it.

    The lock is a POSIX record lock: on NFS it holds between machines where the server has locks (version 4, or ``lockd``), and that
    of a machine that crashed is free only when the server has noticed. A file system without locks gives a warning and no
    protection.

    Args:
        folder: An existing folder.
        name: File in it that the lock is on; removed at the end, and left by a killed process, which does no harm.
        work: What the holder does, for others to read: ``'training'``.
        patience: Seconds to wait for another process before it is refused; None: as long as it takes.
        mend: How to go on when it is refused, the end of the message.

    Raises:
        FolderInUse: If another process holds the lock, and still does after ``patience``.
    """
    path = Path(folder).resolve() / name
    file = None if path in _HELD else _locked(path, work, patience, mend)
    if file is None:
        yield
        return
    _HELD.add(path)
    try:
        yield
    finally:
        _HELD.discard(path)
        path.unlink(missing_ok=True)  # while it is locked: who waits for it notices, see `_is_file_of`
        os.close(file)


def _locked(path: Path, work: str, patience: float | None, mend: str) -> int | None:
    """The open and locked file; None on a file system without locks."""
    started, said = time.monotonic(), False
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = described(os.pread(file, 1000, 0))
            os.close(file)
            if error.errno in NO_LOCKS:
                print_log(
                    f'{path.parent} is on a file system without locks ({error.strerror}): nothing keeps a second process out of it',
                    'current',
                    logging.WARNING,
                )
                return None
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            if patience is not None and time.monotonic() - started >= patience:
                raise FolderInUse(f'{path.parent} is in use by {holder}; {mend}') from None
            if not said:
                print_log(f'{path.parent} is in use by {holder}; waiting for it', 'current')
            said = True
            time.sleep(PAUSE)
            continue
        if _is_file_of(file, path):
            os.truncate(file, 0)
            os.pwrite(file, json.dumps(_myself(work)).encode(), 0)
            return file
        os.close(file)  # its holder removed it while this process waited


def _is_file_of(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False


def _myself(work: str) -> dict[str, str | int]:
    return dict(
        work=work, pid=os.getpid(), host=socket.gethostname(), since=time.strftime('%Y-%m-%d %H:%M:%S'), command=' '.join(sys.argv)[:300]
    )


def described(holder: bytes) -> str:
    """Who holds a lock, from the content of its file."""
    try:
        return 'the {work} of process {pid} on {host}, begun {since} ({command})'.format(**json.loads(holder))
    except (ValueError, LookupError, TypeError):  # just created, not written yet
        return 'a process that has just begun'
