"""Whether a folder may be written to, what is in it already, and the marker that says whether it is whole."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from bevfusion_plugin.folder_lock import held_folder
from bevfusion_plugin.parent_watch import INTERVAL
from bevfusion_plugin.synthetic_nuscenes.lidar import NUM_BEAMS
from bevfusion_plugin.synthetic_nuscenes.settings import VERSION, Settings

MARKER = 'synthetic_nuscenes.json'
_LOCK = '.synthetic_nuscenes.lock'
_FORMAT = 2  # raise when the same settings give other bytes than before
OWN_FOLDERS = (VERSION, 'samples', 'sweeps', 'maps')
# What mmdet3d's converter derives from them; stale once the data changes.
_DERIVED = ('nuscenes_infos_train.pkl', 'nuscenes_infos_val.pkl', 'nuscenes_dbinfos_train.pkl', 'nuscenes_gt_database')


def is_complete(root: Path, settings: Settings | None = None) -> bool:
    """Whether ``root`` holds a whole synthetic nuScenes (made with ``settings``, if they are given).

    False for a folder whose generation was interrupted, or from which a whole folder went missing.
    """
    marker = _read_marker(root)
    if marker is None or not marker.get('complete') or not all((root / name).is_dir() for name in OWN_FOLDERS):
        return False
    return settings is None or marker == _marker(settings, complete=True)


def check_target(root: Path, settings: Settings, overwrite: bool) -> None:
    """Raises, before anything is touched, if ``settings`` cannot be written to ``root``.

    An interrupted generation may always be written again; a whole one with other settings only with
    ``overwrite``. Files that this package did not write are never removed: beside them it writes only with
    ``overwrite``, and over another nuScenes not at all.

    Raises:
        FileExistsError: ``root`` has other content.
        NotADirectoryError: ``root`` or one of its parents is a file.
        PermissionError: The folder cannot be written.
        OSError: It cannot be written for another reason, or there is no space on the disk.
    """
    if root.is_dir() and any(path.name != _LOCK for path in root.iterdir()):
        _check_content(root, overwrite)
    folder = next(parent for parent in (root, *root.absolute().parents) if parent.exists())
    if not folder.is_dir():
        raise NotADirectoryError(f'cannot write to {root}: {folder} is a file; choose another folder')
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise type(error)(f'cannot write to {folder} ({error.strerror}); choose another folder or mend its permissions') from error
    _check_space(folder, settings)


@contextmanager
def held_for_writing(root: Path) -> Iterator[None]:
    """Within ``with held_for_writing(root):`` no other generator writes there; waits for one that does. Makes the folder."""
    root.mkdir(parents=True, exist_ok=True)
    with held_folder(root, _LOCK, 'synthetic nuScenes'):
        yield


def begin(root: Path, settings: Settings) -> None:
    """Mark ``root`` as unfinished, then clear what an earlier generation and mmdet3d's converter left there."""
    if not (_read_marker(root) or {'complete': True}).get('complete'):
        time.sleep(5 * INTERVAL)  # the workers of a killed generator end within one
    _write_marker(root, settings, complete=False)
    for name in OWN_FOLDERS + _DERIVED:
        path = root / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def finish(root: Path, settings: Settings) -> None:
    """Mark ``root`` as whole."""
    _write_marker(root, settings, complete=True)


def required_bytes(settings: Settings) -> int:
    """Upper estimate of the bytes that the data of ``settings`` take."""
    width, height = settings.image_size
    scan = NUM_BEAMS * settings.azimuth_steps * 5 * 4  # 5 float32 a point
    sample = (1 + settings.sweeps) * scan + 6 * (width * height // 2)  # JPEGs of half a byte a pixel
    return settings.scenes * (settings.samples_per_scene * (sample + 100_000) + 500_000)


def _check_content(root: Path, overwrite: bool) -> None:
    marker = _read_marker(root)
    if marker is None:
        clash = [name for name in OWN_FOLDERS + _DERIVED if (root / name).exists()]
        if clash:
            raise FileExistsError(
                f'{root} holds {", ".join(clash)} that this tool did not write (another nuScenes?); '
                'choose another folder, these are never overwritten'
            )
        if not overwrite:
            raise FileExistsError(
                f'{root} is not empty and was not written by this tool; choose another folder, or write beside its content with --overwrite'
            )
    elif marker.get('complete') and not overwrite:
        raise FileExistsError(
            f'{root} holds a synthetic nuScenes of other settings, {marker.get("settings")}; '
            'replace it with --overwrite or choose another folder'
        )


def _check_space(folder: Path, settings: Settings) -> None:
    free, needed = shutil.disk_usage(folder).free, required_bytes(settings)
    if free < needed:
        raise OSError(
            f'no space: {needed / 1e6:.0f} MB are needed in {folder}, {free / 1e6:.0f} MB are free; '
            'use a smaller image_scale, fewer scenes, sweeps or azimuth_steps, or another disk'
        )


def _marker(settings: Settings, complete: bool) -> dict[str, object]:
    return {'format': _FORMAT, 'settings': asdict(settings), 'complete': complete}


def _write_marker(root: Path, settings: Settings, complete: bool) -> None:
    (root / MARKER).write_text(json.dumps(_marker(settings, complete), indent=2) + '\n')


def _read_marker(root: Path) -> dict | None:
    """The marker; an unreadable one (killed while it was written) counts as unfinished."""
    path = root / MARKER
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text())
    except ValueError:
        return {'complete': False}
