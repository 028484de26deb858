"""A copy of a checkpoint that stays where ``CheckpointHook.max_keep_ckpts`` does not reach."""

from __future__ import annotations

import shutil
from pathlib import Path

from mmengine.dist import master_only

PREFIX = 'last_good_'


def copy_name(path: str | None) -> str | None:
    """Name for a copy of the checkpoint ``path``; None where none is needed (a copy already) or possible (not a local file)."""
    if path is None or '://' in path or Path(path).name.startswith(PREFIX):
        return None
    return str(Path(path).with_name(PREFIX + Path(path).name))


@master_only
def copy_checkpoint(source: Path, target: Path) -> None:
    """Copy on the main process, unless the copy is there already. A link would change when the file is written anew."""
    there, wanted = (path.stat() if path.exists() else None for path in (target, source))
    if wanted is not None and (there is None or (there.st_mtime_ns, there.st_size) != (wanted.st_mtime_ns, wanted.st_size)):
        unfinished = target.with_suffix('.unfinished')
        shutil.copy2(source, unfinished)
        unfinished.replace(target)
