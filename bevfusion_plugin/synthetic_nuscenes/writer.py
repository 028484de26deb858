"""Writes a synthetic nuScenes to a folder, one keyframe a job."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image
from rich.progress import track

from bevfusion_plugin.parent_watch import watch_parent
from bevfusion_plugin.synthetic_nuscenes.folder import OWN_FOLDERS, begin, check_target, finish, held_for_writing, is_complete
from bevfusion_plugin.synthetic_nuscenes.keyframe import build_scene, simulate_keyframe
from bevfusion_plugin.synthetic_nuscenes.rig import CAMERAS, LIDAR, Sensor
from bevfusion_plugin.synthetic_nuscenes.settings import KEYFRAME_PERIOD, VERSION, Settings
from bevfusion_plugin.synthetic_nuscenes.tables import Measured, SceneRecording, build_tables, map_file, sensor_file
from bevfusion_plugin.synthetic_nuscenes.world import MAP_BORDER, ROAD_HALF_WIDTH, World

_JPEG_QUALITY = 90
_MAP_CELL = 0.1  # metres a pixel: what the devkit reads
_MAP_COARSE = 4  # drawn at 0.4 m, then enlarged


@dataclass(frozen=True)
class _Job:
    root: Path
    settings: Settings
    scene: int
    sample: int
    world: World
    rig: dict[str, Sensor]


def create_synthetic_nuscenes(root: Path | str, settings: Settings, workers: int = 1, overwrite: bool = False) -> bool:
    """Whether anything was written: False if ``root`` already holds exactly this data set.

    While another process writes to ``root``, this one waits, and then finds the whole set or makes its own. What a killed one left
    is done again.

    Args:
        root: Folder to write ``v1.0-mini/``, ``samples/``, ``sweeps/`` and ``maps/`` to.
        settings: Size and seed. Equal settings give equal bytes, whatever ``workers`` is.
        workers: Processes that simulate keyframes.
        overwrite: Replace a synthetic nuScenes of other settings; see ``folder.check_target``.

    Raises:
        ValueError: ``workers`` is less than 1.
        OSError: As ``folder.check_target``, before any work.
        RuntimeError: As ``keyframe.build_scene``, before anything is written.
    """
    root = Path(root)
    if workers < 1:
        raise ValueError(f'workers must be >= 1, got {workers}')
    if is_complete(root, settings):
        return False
    check_target(root, settings, overwrite)
    recordings = [SceneRecording(*build_scene(settings, scene), []) for scene in range(settings.scenes)]
    with held_for_writing(root):
        if is_complete(root, settings):  # it was made meanwhile
            return False
        check_target(root, settings, overwrite)
        _write(root, settings, recordings, workers)
    return True


def _write(root: Path, settings: Settings, recordings: list[SceneRecording], workers: int) -> None:
    begin(root, settings)
    for folder in (*OWN_FOLDERS, f'sweeps/{LIDAR}', *(f'samples/{channel}' for channel in (LIDAR, *CAMERAS))):
        (root / folder).mkdir()
    jobs = [
        _Job(root, settings, scene, sample, recording.world, recording.rig)
        for scene, recording in enumerate(recordings)
        for sample in range(settings.samples_per_scene)
    ]
    for job, measured in zip(jobs, _progress(jobs, min(workers, len(jobs)))):
        recordings[job.scene].keyframes.append(measured)
    for scene, recording in enumerate(recordings):
        _write_map(root / map_file(settings, scene), recording.world, settings.duration)
    for name, records in build_tables(settings, recordings).items():
        (root / VERSION / f'{name}.json').write_text(json.dumps(records, indent=0))
    finish(root, settings)


def _progress(jobs: list[_Job], workers: int) -> Iterable[Measured]:
    """What the keyframes measured, in order, with a progress bar."""
    if workers == 1:
        yield from track(map(_write_keyframe, jobs), 'synthetic nuScenes', total=len(jobs))
        return
    # Forked, because a fresh interpreter would first import all of mmdet3d.
    # None may outlive a killed parent: it would write into the folder that another process then takes over.
    with ProcessPoolExecutor(workers, get_context('fork'), watch_parent, (signal.SIGKILL,)) as pool:
        yield from track(pool.map(_write_keyframe, jobs), 'synthetic nuScenes', total=len(jobs))


def _write_keyframe(job: _Job) -> Measured:
    keyframe = simulate_keyframe(job.settings, job.scene, job.sample, job.world, job.rig)
    offset = job.sample * KEYFRAME_PERIOD
    scans = zip((*job.settings.sweep_offsets(job.sample), offset), (*keyframe.sweeps, keyframe.scan))
    for scan_offset, scan in scans:
        scan.points.tofile(job.root / sensor_file(LIDAR, job.scene, scan_offset))
    for channel, picture in keyframe.pictures.items():
        path = job.root / sensor_file(channel, job.scene, offset)
        Image.fromarray(picture.image).save(path, quality=_JPEG_QUALITY)
    return Measured(keyframe.num_lidar_pts, keyframe.visibility)


def _write_map(path: Path, world: World, duration: float) -> None:
    """The drivable ground (255) of a scene, north up with the origin in the lower left corner."""
    path_xy, _ = world.ego.pose(np.linspace(0, duration, 32))
    width, height = np.ceil((path_xy.max(axis=0) + MAP_BORDER) / (_MAP_CELL * _MAP_COARSE)).astype(int)
    x = (np.arange(width) + 0.5) * _MAP_CELL * _MAP_COARSE
    y = (np.arange(height)[::-1, None] + 0.5) * _MAP_CELL * _MAP_COARSE
    drivable = world.ego.lateral(*np.broadcast_arrays(x, y)) < ROAD_HALF_WIDTH
    picture = Image.fromarray(np.where(drivable, 255, 0).astype(np.uint8))
    picture.resize((int(width) * _MAP_COARSE, int(height) * _MAP_COARSE), Image.Resampling.NEAREST).save(path)
