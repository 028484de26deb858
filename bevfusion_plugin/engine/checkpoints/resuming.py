"""The checkpoint that a run goes on from, and what it takes over from it."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner, find_latest_checkpoint

from bevfusion_plugin.engine.checkpoints.checked_loading import BrokenCheckpoint, load_checked, training_fault
from bevfusion_plugin.engine.checkpoints.kept_copy import PREFIX
from bevfusion_plugin.engine.checkpoints.position import progress
from bevfusion_plugin.engine.checkpoints.safe_loading import REFUSES_CODE

POINTER = 'last_checkpoint'  # MMEngine's file with the name of the checkpoint written last


def checkpoint_meta(path: Path) -> dict[str, Any]:
    """What a checkpoint says of its run; its tensors stay on the disk."""
    content = torch.load(path, map_location='cpu', weights_only=REFUSES_CODE, mmap=zipfile.is_zipfile(path))
    return content['meta']


def resumable_fault(path: Path) -> str | None:
    """Why a training cannot go on from a file, file and all; None if it can."""
    try:
        reason = training_fault(load_checked(path, 'cpu'))
    except (BrokenCheckpoint, OSError) as error:
        return str(error)
    return reason and f'the checkpoint {path} {reason}'


def newest_whole(work_dir: str | Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint of a work dir that a training can go on from, None if there are none, and why newer ones cannot be.

    What counts is how far a checkpoint is, not ``last_checkpoint``, which may be missing, empty or name a folder that
    was moved. Only where it names a ``last_good_`` copy that one comes first: later ones are of a training that diverged.

    Raises:
        BrokenCheckpoint: If there are checkpoints, or were, and none is whole: a run must not begin anew over them.
    """
    pointed = _pointed(Path(work_dir))
    candidates = sorted(_checkpoints(Path(work_dir), pointed), key=lambda path: _order(path, pointed))
    passed_over: list[str] = []
    for path in candidates:
        reason = resumable_fault(path)
        if reason is None:
            return path, passed_over
        passed_over.append(reason)
    if passed_over or pointed:
        found = '\n'.join(f'- {reason}' for reason in passed_over) or f'{POINTER} names {pointed}, which is not there'
        raise BrokenCheckpoint(
            f'no checkpoint of {work_dir} is whole:\n{found}\nName another with --resume PATH, or begin anew in another --work-dir'
        )
    return None, []


def _pointed(work_dir: Path) -> Path | None:
    """The file that ``last_checkpoint`` names, inside the work dir if it is there: a moved run keeps the old folder's name."""
    pointer = work_dir / POINTER
    named = pointer.read_text(errors='replace').strip('\0 \n') if pointer.is_file() else ''
    if not named:
        return None
    inside = work_dir / Path(named).name
    return inside if inside.is_file() else Path(named)


def _checkpoints(work_dir: Path, pointed: Path | None) -> list[Path]:
    """The candidates in a work dir; where it has none (``CheckpointHook.out_dir``), those beside the one written last."""
    found: list[Path] = []
    for folder in (work_dir, *([pointed.parent] if pointed else [])):
        found = found or [path for path in folder.glob('*.pth') if path.is_file() and not path.name.startswith('best_')]
    return found


def _order(path: Path, pointed: Path | None) -> tuple:
    """What a good copy comes first by, then how far it is (a file that does not tell first: it is named with its fault)."""
    far: tuple[float, float]
    try:
        far = progress(checkpoint_meta(path))
    except Exception:  # bytes that are no checkpoint can fail with anything
        far = math.inf, math.inf
    is_copy = path.name.startswith(PREFIX)
    return not (is_copy and path == pointed), -far[0], -far[1], is_copy, path.name


def newest_checkpoint(runner: Runner) -> str | None:
    """The last checkpoint that this run wrote, else the one it was resumed from."""
    written = [hook.last_ckpt for hook in runner.hooks if isinstance(hook, CheckpointHook) and hook.last_ckpt]
    if written or not runner._resume:
        return written[0] if written else None
    return runner._load_from or find_latest_checkpoint(runner.work_dir)
