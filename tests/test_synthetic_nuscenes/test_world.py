"""What a seed makes of the synthetic world: the same every time."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from synthetic_world import SETTINGS, TINY

from bevfusion_plugin.synthetic_nuscenes import attribute_name, build_scene, create_synthetic_nuscenes


def folder_digest(root: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in root.rglob('*') if path.is_file()):
        digest.update(str(path.relative_to(root)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


# Sameness


def test_a_seed_gives_the_same_bytes_with_any_number_of_workers_and_another_seed_others(tmp_path):
    for name, settings, workers in (('one', TINY, 1), ('two', TINY, 2), ('other', replace(TINY, seed=1), 1)):
        create_synthetic_nuscenes(tmp_path / name, settings, workers)
    assert folder_digest(tmp_path / 'one') == folder_digest(tmp_path / 'two')
    scans = [sorted(path.read_bytes() for path in (tmp_path / name).rglob('*.bin')) for name in ('one', 'other')]
    assert len(scans[0]) == len(scans[1]) == 6 and not set(scans[0]) & set(scans[1])


def test_a_scene_does_not_depend_on_how_many_there_are():
    worlds = [build_scene(replace(SETTINGS, scenes=scenes), 1)[0] for scenes in (2, 10)]
    assert np.array_equal(worlds[0].start_centers, worlds[1].start_centers)


def test_scenes_of_nuscenes_length_find_room():
    world, _ = build_scene(replace(SETTINGS, samples_per_scene=40), 0)
    assert world.num_objects > 80


@pytest.mark.parametrize(
    'name, speed, expected',
    [('bus', 0.0, 'vehicle.stopped'), ('truck', 3.0, 'vehicle.moving'), ('barrier', 0.0, None), ('bicycle', 0.0, 'cycle.without_rider')],
)
def test_attribute_names(name, speed, expected):
    assert attribute_name(name, speed) == expected
