"""The synthetic nuScenes read back by the official devkit, and its sensors against the slow obvious version."""
from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import shapely
from nuscenes import NuScenes
from nuscenes.utils.data_classes import Box, LidarPointCloud
from nuscenes.utils.geometry_utils import points_in_box
from nuscenes.utils.splits import create_splits_scenes
from PIL import Image
from pyquaternion import Quaternion
from shapely.geometry import MultiPoint, box

from bevfusion_plugin.synthetic_nuscenes import (CAMERAS, CLASSES, GROUND, IMAGE_ONLY_PAIR, KEYFRAME_PERIOD, LIDAR, Settings,
                                                 attribute_name, build_scene, create_synthetic_nuscenes, sensor_file,
                                                 sensor_view, simulate_keyframe, token, visibility_token)
from bevfusion_plugin.synthetic_nuscenes.camera import NOTHING, ShadowMap, render
from bevfusion_plugin.synthetic_nuscenes.lidar import SURFACE_INSET, scan

SETTINGS = Settings(scenes=2, samples_per_scene=3, image_scale=0.25, sweeps=2)
TINY = Settings(scenes=2, samples_per_scene=2, image_scale=0.1, sweeps=1, azimuth_steps=180)
LABELS = {item.name: label for label, item in enumerate(CLASSES)}


@pytest.fixture(scope='module')
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('nuscenes')
    assert create_synthetic_nuscenes(folder, SETTINGS)
    return folder


@pytest.fixture(scope='module')
def nusc(root) -> NuScenes:
    return NuScenes('v1.0-mini', str(root), verbose=False)


@pytest.fixture(scope='module')
def scenes() -> list:
    """World and rig of each scene."""
    return [build_scene(SETTINGS, scene) for scene in range(SETTINGS.scenes)]


@pytest.fixture(scope='module')
def keyframes(scenes) -> dict:
    """Every keyframe by (scene, sample)."""
    return {(scene, sample): simulate_keyframe(SETTINGS, scene, sample, *scenes[scene])
            for scene in range(SETTINGS.scenes) for sample in range(SETTINGS.samples_per_scene)}


def annotation(nusc: NuScenes, scene: int, sample: int, index: int) -> dict:
    return nusc.get('sample_annotation', token(SETTINGS, 'sample_annotation', scene, sample, index))


def lidar_to_global(nusc: NuScenes, record: dict) -> tuple[np.ndarray, np.ndarray]:
    """(3, 3) and (3,) that map points of a lidar ``sample_data`` record to global coordinates."""
    pose = nusc.get('ego_pose', record['ego_pose_token'])
    mount = nusc.get('calibrated_sensor', record['calibrated_sensor_token'])
    turn = Quaternion(pose['rotation']).rotation_matrix
    return (turn @ Quaternion(mount['rotation']).rotation_matrix,
            turn @ mount['translation'] + np.array(pose['translation']))


def folder_digest(root: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in root.rglob('*') if path.is_file()):
        digest.update(str(path.relative_to(root)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


# The format

def test_devkit_finds_every_file_and_both_splits(root, nusc):
    assert len(list((root / 'v1.0-mini').glob('*.json'))) == 13
    assert [len(nusc.scene), len(nusc.sample), len(nusc.category), len(nusc.attribute)] == [2, 6, 23, 8]
    for record in nusc.sample_data:
        path = root / record['filename']
        assert path.is_file() and path.parts[-3] == ('samples' if record['is_key_frame'] else 'sweeps')
        if record['channel'] != LIDAR:
            with Image.open(path) as image:
                assert image.size == (record['width'], record['height']) == (400, 225)
    assert {record['filename'] for record in nusc.sample_data} == {
        str(path.relative_to(root)) for folder in ('samples', 'sweeps') for path in (root / folder).rglob('*.*')}
    splits, names = create_splits_scenes(), {scene['name'] for scene in nusc.scene}
    assert len(names & set(splits['mini_train'])) == len(names & set(splits['mini_val'])) == 1


def test_chains_of_records_lead_from_the_first_to_the_last(nusc):
    for scene in nusc.scene:
        sample_token, times = scene['first_sample_token'], []
        while sample_token:
            sample = nusc.get('sample', sample_token)
            times.append(sample['timestamp'])
            assert set(sample['data']) == {LIDAR, *CAMERAS}
            last, sample_token = sample_token, sample['next']
        assert last == scene['last_sample_token'] and len(times) == scene['nbr_samples'] == 3
        assert np.diff(times).tolist() == [500_000, 500_000]
    for instance in nusc.instance:
        record, count = nusc.get('sample_annotation', instance['first_annotation_token']), 1
        while record['next']:
            record, count = nusc.get('sample_annotation', record['next']), count + 1
            assert record['instance_token'] == instance['token']
        assert (record['token'], count) == (instance['last_annotation_token'], instance['nbr_annotations'])


def test_sweeps_lie_evenly_between_keyframes_and_belong_to_the_later_one(nusc):
    sample = nusc.sample[1]
    record, steps = nusc.get('sample_data', sample['data'][LIDAR]), []
    for key_frame in (False, False, True):
        previous = nusc.get('sample_data', record['prev'])
        steps.append(record['timestamp'] - previous['timestamp'])
        assert previous['is_key_frame'] is key_frame
        assert previous['sample_token'] == (nusc.sample[0]['token'] if key_frame else sample['token'])
        record = previous
    assert record['prev'] == '' and sum(steps) == 500_000 and max(steps) - min(steps) <= 1


def test_map_is_drivable_where_the_ego_drives_and_not_beside_the_road(nusc, scenes):
    for scene, (world, _) in enumerate(scenes):
        mask = nusc.get('map', token(SETTINGS, 'map', scene))['mask']
        (x, y), yaw = world.ego.pose(0.5)
        aside = 20 * np.array([-np.sin(yaw), np.cos(yaw)])
        assert mask.is_on_mask(x, y).all() and not mask.is_on_mask(x + aside[0], y + aside[1]).any()


# Annotations

def test_velocity_is_displacement_over_time(nusc, scenes):
    for scene, (world, _) in enumerate(scenes):
        for index in range(world.num_objects):
            for sample in range(3):
                velocity = nusc.box_velocity(annotation(nusc, scene, sample, index)['token'])
                assert np.abs(velocity - [*world.velocities[index], 0]).max() < 1e-6
    assert max(np.hypot(*world.velocities.T).max() for world, _ in scenes) > 5


def test_attributes_follow_class_and_motion(nusc):
    seen = set()
    for record in nusc.sample_annotation:
        names = [nusc.get('attribute', item)['name'] for item in record['attribute_tokens']]
        moves = np.hypot(*nusc.box_velocity(record['token'])[:2]) > 0.01
        kind = record['category_name'].split('.')[-1]
        expected = {'barrier': [], 'trafficcone': [],
                    'adult': ['pedestrian.moving' if moves else 'pedestrian.standing'],
                    'bicycle': ['cycle.with_rider' if moves else 'cycle.without_rider'],
                    'motorcycle': ['cycle.with_rider' if moves else 'cycle.without_rider'],
                    'rigid': ['vehicle.moving' if moves else 'vehicle.stopped']}
        assert names == expected.get(kind, ['vehicle.moving' if moves else 'vehicle.parked'])
        seen.add((kind, bool(moves)))
    assert {('car', True), ('car', False), ('adult', True), ('adult', False)} <= seen
    assert {record['category_name'] for record in nusc.sample_annotation} == {item.category for item in CLASSES}


def test_num_lidar_pts_is_what_the_devkit_counts(nusc):
    total = 0
    for sample in nusc.sample:
        path, boxes, _ = nusc.get_sample_data(sample['data'][LIDAR])
        points = LidarPointCloud.from_file(path).points[:3]
        for item in boxes:
            counted = int(points_in_box(item, points).sum())
            assert nusc.get('sample_annotation', item.token)['num_lidar_pts'] == counted
            total += counted
    assert total > 1000


@pytest.mark.parametrize('fraction, expected',
                         [(0.0, '1'), (0.39, '1'), (0.4, '2'), (0.6, '3'), (0.79, '3'), (1.0, '4')])
def test_visibility_levels_start_at_40_60_80_percent(fraction, expected):
    assert visibility_token(fraction) == expected


def test_visibility_is_the_shown_share_of_the_outline_in_all_pictures(nusc, scenes, keyframes):
    (world, rig), keyframe, levels = scenes[0], keyframes[0, 1], set()
    views = {channel: sensor_view(world, rig[channel], KEYFRAME_PERIOD) for channel in CAMERAS}
    for index in range(world.num_objects):
        corners = {channel: view.corners(index) for channel, view in views.items()}
        ahead = [channel for channel in CAMERAS if corners[channel][:, 2].max() > 0]
        if min(corners[channel][:, 2].min() for channel in ahead) < 0.2:
            continue  # beside a camera: its outline there has no end
        outline = sum(pixels_within(corners[channel], rig[channel].intrinsic) for channel in ahead)
        shown = sum((picture.owner == index).sum() for picture in keyframe.pictures.values())
        assert abs(shown - keyframe.visibility[index] * outline) <= 2 + 0.01 * outline
        assert annotation(nusc, 0, 1, index)['visibility_token'] == visibility_token(keyframe.visibility[index])
        levels.add(visibility_token(keyframe.visibility[index]))
    assert levels == {'1', '2', '3', '4'}


def pixels_within(corners: np.ndarray, intrinsic: np.ndarray) -> int:
    """Pixels of the picture inside the outline of the box with these camera-frame ``corners`` (8, 3)."""
    projected = corners @ intrinsic.T
    outline = MultiPoint(projected[:, :2] / projected[:, 2:]).convex_hull
    u, v = np.meshgrid(*(np.arange(side) for side in SETTINGS.image_size))
    return int(shapely.contains_xy(outline, u, v).sum())


def test_every_class_has_its_nuscenes_size_and_the_image_only_pair_one_body():
    first, second = (CLASSES[LABELS[name]] for name in IMAGE_ONLY_PAIR)
    assert first.body == second.body and (first.count, first.reach) == (second.count, second.reach)
    assert first.paint != second.paint
    sizes = [[] for _ in CLASSES]
    for seed in range(5):
        world, _ = build_scene(replace(SETTINGS, seed=seed), 0)
        for label, size in zip(world.labels, world.sizes):
            sizes[label].append(size)
    for item, found in zip(CLASSES, sizes):
        tolerance = 4 * item.body.spread / np.sqrt(len(found))
        assert np.allclose(np.mean(found, axis=0), item.body.size, rtol=tolerance)


# The lidar

def test_scan_has_nuscenes_columns(root, keyframes):
    stored = np.fromfile(root / sensor_file(LIDAR, 1, KEYFRAME_PERIOD), dtype=np.float32).reshape(-1, 5)
    assert np.array_equal(stored, keyframes[1, 1].scan.points)
    ring, intensity = stored[:, 4], stored[:, 3]
    assert set(ring) <= set(range(32)) and len(set(ring)) > 24  # the highest beams look over most walls
    assert intensity.min() >= 0 and intensity.max() <= 255 and np.array_equal(intensity, np.round(intensity))
    elevation = np.degrees(np.arcsin(stored[:, 2] / np.linalg.norm(stored[:, :3], axis=1)))
    assert np.allclose(elevation, -30.67 + ring * (10.67 + 30.67) / 31, atol=1e-3)


def test_points_inside_a_box_come_from_that_box(nusc, scenes, keyframes):
    own = others = 0
    for (scene, sample), keyframe in keyframes.items():
        record = nusc.get('sample_data', token(SETTINGS, 'sample_data', scene, LIDAR, sample * KEYFRAME_PERIOD))
        turn, shift = lidar_to_global(nusc, record)
        points = keyframe.scan.points[:, :3] @ turn.T + shift
        for index in range(scenes[scene][0].num_objects):
            item = nusc.get_box(annotation(nusc, scene, sample, index)['token'])
            inside = points_in_box(item, points.T)
            own += (keyframe.scan.source[inside] == index).sum()
            others += (keyframe.scan.source[inside] != index).sum()
    assert own > 5000 and own / (own + others) >= 0.95


def test_no_point_lies_behind_another_surface(scenes):
    """Each ray followed alone, against every solid and the ground: the nearest surface is the point's source."""
    world, rig = scenes[0]
    view = sensor_view(world, rig[LIDAR], 0)
    revolution = scan(world, view, np.random.default_rng(1), 720)
    checked = set()
    for number in np.random.default_rng(0).choice(len(revolution.points), 400, replace=False):
        point = revolution.points[number, :3].astype(float)
        distance = np.linalg.norm(point)
        nearest, source = np.inf, None
        for index in range(len(view.centers)):
            half = view.half_sizes[index] - (SURFACE_INSET if index < world.num_objects else 0)
            origin, direction = -view.centers[index] @ view.axes[index], point / distance @ view.axes[index]
            low, high = 0.0, np.inf
            for axis in range(3):
                ends = sorted((side * half[axis] - origin[axis]) / direction[axis] for side in (-1, 1))
                low, high = max(low, ends[0]), min(high, ends[1])
            if low < high and low < nearest:
                nearest, source = low, index
        fall = view.rotation[2] @ point / distance
        if fall < 0 and -view.translation[2] / fall < nearest:
            nearest, source = -view.translation[2] / fall, GROUND
        assert source == revolution.source[number]
        assert abs(distance - nearest) <= SURFACE_INSET + 1e-4
        checked.add(source == GROUND)
    assert checked == {True, False}


def test_sweeps_of_standing_objects_fall_into_their_boxes_in_global_coordinates(nusc, scenes, keyframes):
    for scene, (world, _) in enumerate(scenes):
        standing = np.flatnonzero(~world.velocities[:world.num_objects].any(axis=1))
        hits = 0
        for number, offset in enumerate(SETTINGS.sweep_offsets(1)):
            sweep = keyframes[scene, 1].sweeps[number]
            record = nusc.get('sample_data', token(SETTINGS, 'sample_data', scene, LIDAR, offset))
            turn, shift = lidar_to_global(nusc, record)
            for index in standing:
                points = sweep.points[sweep.source == index, :3] @ turn.T + shift
                item = nusc.get_box(annotation(nusc, scene, 1, index)['token'])
                assert points_in_box(item, points.T, wlh_factor=1.05).all()
                hits += len(points)
        assert hits > 100


def test_lidar_cannot_tell_the_image_only_pair_apart_but_a_camera_can(scenes):
    world, rig = scenes[0]
    swap = np.arange(len(CLASSES))
    first, second = (LABELS[name] for name in IMAGE_ONLY_PAIR)
    swap[[first, second]] = second, first
    swapped = replace(world, labels=swap[world.labels])
    view = sensor_view(world, rig[LIDAR], 0)
    scans = [scan(item, view, np.random.default_rng(0), 360) for item in (world, swapped)]
    assert np.array_equal(scans[0].points, scans[1].points)
    shadows = ShadowMap(world, 0.0, world.ego.pose(0.0)[0])
    different = []
    for channel in CAMERAS:
        view = sensor_view(world, rig[channel], 0)
        before, after = (render(item, view, rig[channel], SETTINGS.image_size, shadows, np.random.default_rng(0))
                         for item in (world, swapped))
        of_pair = np.isin(before.owner, np.flatnonzero(np.isin(world.labels, (first, second))))
        changed = (before.image != after.image).any(axis=2)
        assert not changed[~of_pair].any()
        different.append(changed[of_pair].mean() if of_pair.any() else 0)
    assert max(different) > 0.2


# The cameras

def test_projected_box_corners_bound_the_silhouette_to_a_pixel(nusc, scenes, keyframes):
    checked = set()
    for (scene, sample), keyframe in keyframes.items():
        for channel, picture in keyframe.pictures.items():
            record = nusc.get('sample_data', token(SETTINGS, 'sample_data', scene, channel, sample * KEYFRAME_PERIOD))
            _, boxes, intrinsic = nusc.get_sample_data(record['token'])
            numbers = {annotation(nusc, scene, sample, index)['token']: index
                       for index in range(scenes[scene][0].num_objects)}
            for item in boxes:
                index = numbers[item.token]
                if item.corners()[2].min() < 0.2 or not 0 < picture.visible[index] == picture.unoccluded[index]:
                    continue
                expected, found = projected_extent(item, intrinsic), silhouette_extent(picture.owner == index)
                assert np.abs(expected - found).max() < 1
                checked.add(channel)
    assert checked == set(CAMERAS)


def projected_extent(item: Box, intrinsic: np.ndarray) -> np.ndarray:
    """(left, top, right, bottom) of the box's outline where it lies in the picture, pixels at their centres."""
    pixels = intrinsic @ item.corners()
    outline = MultiPoint((pixels[:2] / pixels[2]).T).convex_hull
    width, height = SETTINGS.image_size
    return np.array(outline.intersection(box(-0.5, -0.5, width - 0.5, height - 0.5)).bounds)


def silhouette_extent(mask: np.ndarray) -> np.ndarray:
    """The same of the area of the pixels in ``mask``."""
    rows, columns = np.nonzero(mask)
    return np.array([columns.min() - 0.5, rows.min() - 0.5, columns.max() + 0.5, rows.max() + 0.5])


def test_stored_pictures_show_what_was_rendered(root, keyframes):
    for channel, picture in keyframes[0, 2].pictures.items():
        with Image.open(root / sensor_file(channel, 0, 2 * KEYFRAME_PERIOD)) as image:
            stored = np.asarray(image, dtype=float)
        assert np.abs(stored - picture.image).mean() < 4  # JPEG
        assert picture.image.std() > 20


def test_nearer_solids_hide_farther_ones(scenes, keyframes):
    """Random pixels against every solid, by its six planes in 64 bits: the nearest is the one the picture shows."""
    (world, rig), random = scenes[1], np.random.default_rng(0)
    overlapping = 0
    for channel, picture in keyframes[1, 0].pictures.items():
        view, (height, width) = sensor_view(world, rig[channel], 0), picture.owner.shape
        rows, columns = random.integers(height // 4, height, 500), random.integers(0, width, 500)
        rays = np.stack([columns, rows, np.ones(500)], axis=1) @ np.linalg.inv(rig[channel].intrinsic).T
        depths = np.full((500, len(view.centers)), np.inf)
        for index in range(len(view.centers)):
            origin, direction = -view.centers[index] @ view.axes[index], rays @ view.axes[index]
            ends = np.sort((np.array([[[-1]], [[1]]]) * view.half_sizes[index] - origin) / direction, axis=0)
            near, far = ends[0].max(axis=1), ends[1].min(axis=1)
            depths[:, index] = np.where((0 < near) & (near < far), near, np.inf)
        nearest = np.where(np.isfinite(depths.min(axis=1)), depths.argmin(axis=1), NOTHING)
        assert (nearest == picture.owner[rows, columns]).mean() > 0.99  # a pixel on an edge may fall either way
        overlapping += (np.isfinite(depths).sum(axis=1) > 1).sum()
    assert overlapping > 100


def test_shadows_lie_away_from_the_sun():
    world, _ = build_scene(SETTINGS, 0)
    index = int(np.flatnonzero(world.labels == LABELS['pedestrian'])[0])
    only = replace(world, labels=world.labels[[index]], start_centers=world.start_centers[[index]],
                   sizes=np.array([[0.5, 0.5, 4.0]]), yaws=np.zeros(1), velocities=np.zeros((1, 2)),
                   paints=world.paints[[index]])
    middle = only.start_centers[0, :2]
    length = 4.0 * np.hypot(*only.sun[:2]) / only.sun[2]
    away = -only.sun[:2] / np.hypot(*only.sun[:2])
    shadows = ShadowMap(only, 0.0, middle)
    along = np.array([-0.5, 0.1, 0.5, 0.9, 1.3]) * length
    places = middle + along[:, None] * away
    assert shadows.at(*places.T).tolist() == [False, True, True, True, False]


def test_solids_never_touch(scenes):
    for world, _ in scenes:
        for time in np.arange(0, SETTINGS.duration, 0.1):
            centers = world.centers(time)
            outlines = []
            for center, size, yaw in zip(centers, world.sizes, world.yaws):
                corners = np.array([[1, 1], [1, -1], [-1, -1], [-1, 1]]) * size[:2] / 2
                turn = np.array([[np.cos(yaw), np.sin(yaw)], [-np.sin(yaw), np.cos(yaw)]])
                outlines.append(MultiPoint(corners @ turn + center[:2]).convex_hull)
            touching = [(a, b) for a in range(len(outlines)) for b in range(a) if outlines[a].intersects(outlines[b])]
            assert not touching


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


@pytest.mark.parametrize('name, speed, expected', [('bus', 0.0, 'vehicle.stopped'), ('truck', 3.0, 'vehicle.moving'),
                                                   ('barrier', 0.0, None), ('bicycle', 0.0, 'cycle.without_rider')])
def test_attribute_names(name, speed, expected):
    assert attribute_name(name, speed) == expected
