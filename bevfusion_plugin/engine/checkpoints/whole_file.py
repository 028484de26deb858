"""Files that are whole or not there: written aside, flushed, renamed, with a manifest beside them that tells a broken one."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import zipfile
from pathlib import Path

UNFINISHED = '.unfinished'
CHUNK = 2**22  # bytes read at once


class CheckpointNotWritten(RuntimeError):
    """A checkpoint could not be written; the message says which, why, and that the older ones are as they were."""


def manifest_path(path: Path) -> Path:
    """Where the manifest of the file ``path`` lies: its size and SHA-256 as JSON."""
    return path.with_name(f'{path.name}.json')


def write_whole(path: str | Path, content: bytes) -> None:
    """Put ``content`` into ``path``: a reader, and a process that is killed at any moment, leaves the old file or the new one.

    Raises:
        CheckpointNotWritten: If the disk does not take it; what was there before still is.
    """
    path = Path(path)
    manifest = json.dumps(dict(size=len(content), sha256=hashlib.sha256(content).hexdigest())).encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = _written_aside(path, content)
        manifest_path(path).unlink(missing_ok=True)  # of an older file: it would deny the new one
        unfinished.replace(path)
        _written_aside(manifest_path(path), manifest).replace(manifest_path(path))
        _flush_folder(path.parent)
    except OSError as error:
        raise CheckpointNotWritten(
            f'{path} ({len(content):,} bytes) could not be written: {error.strerror}; {_free_space(path.parent)}. The '
            'checkpoints written before are untouched: make room and go on with --resume'
        ) from error


def _written_aside(path: Path, content: bytes) -> Path:
    """A file beside ``path`` with the content, on the disk and not only in memory; none if it does not fit."""
    unfinished = path.with_name(path.name + UNFINISHED)
    try:
        with open(unfinished, 'wb') as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise
    return unfinished


def _flush_folder(folder: Path) -> None:
    """Make the renaming last over a power cut, where the file system can."""
    with contextlib.suppress(OSError):  # some network file systems cannot; the files themselves are flushed
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _free_space(folder: Path) -> str:
    try:
        return f'{shutil.disk_usage(folder).free:,} bytes are free there'
    except OSError as error:
        return f'its folder cannot be asked for free space ({error.strerror})'


def remove_whole(path: str | Path) -> None:
    """Remove a file and its manifest, the manifest first: alone it would deny a later file of that name."""
    manifest_path(Path(path)).unlink(missing_ok=True)
    Path(path).unlink()


def file_fault(path: Path) -> str | None:
    """What is wrong with the bytes of a checkpoint, to be read after its name; None if nothing is.

    With a manifest every byte is compared; without one, as stock MMEngine leaves it, the checksums that ``torch.save`` writes for
    every tensor and ``torch.load`` does not look at. A file in torch's format from before 1.6 has none.
    """
    if path.stat().st_size == 0:
        return 'is empty'
    manifest = _read_manifest(path)
    if manifest:
        return _difference(path, manifest)
    with open(path, 'rb') as file:
        is_archive = file.read(2) == b'PK'
    return _archive_fault(path) if is_archive else None


def _read_manifest(path: Path) -> dict | None:
    try:
        manifest = json.loads(manifest_path(path).read_text())
        return dict(size=manifest['size'], sha256=manifest['sha256'])
    except (OSError, ValueError, LookupError, TypeError):  # none, or not ours: the file is judged by its own checksums
        return None


def _difference(path: Path, manifest: dict) -> str | None:
    size = path.stat().st_size
    mend = f'if another program rewrote it on purpose, delete {manifest_path(path)}'
    if size != manifest['size']:
        return f'has {size:,} bytes where {manifest["size"]:,} were written: it is truncated or overwritten; {mend}'
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return None if digest.hexdigest() == manifest['sha256'] else f'is not as it was written: its SHA-256 differs; {mend}'


def _archive_fault(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except Exception as error:  # bytes that are no archive can fail with anything
        return f'is truncated or damaged ({type(error).__name__}: {error})'
    return broken and f'is damaged: the checksum of its record {broken} does not fit'
