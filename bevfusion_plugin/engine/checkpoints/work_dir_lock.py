"""One training at a time in a work dir."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bevfusion_plugin.folder_lock import held_folder

LOCK = '.training.lock'


@contextmanager
def held_work_dir(work_dir: str | Path) -> Iterator[None]:
    """Within ``with held_work_dir(...):`` no other training writes to this work dir; for the main process of a training.

    A training that was killed blocks none that resumes it. See :func:`held_folder`, also for network file systems.

    Args:
        work_dir: The folder; it is made if it is not there.

    Raises:
        FolderInUse: If another training runs there; the message says which. At once: what to resume from may change while it does.
    """
    Path(work_dir).mkdir(parents=True, exist_ok=True)
    mend = 'let it finish or end it (`--resume` then goes on from its newest checkpoint), or choose another --work-dir'
    with held_folder(work_dir, LOCK, 'training', patience=0, mend=mend):
        yield
