"""The synthetic nuScenes read back by the official devkit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import shapely
from nuscenes.utils.data_classes import LidarPointCloud
from nuscenes.utils.geometry_utils import points_in_box
from nuscenes.utils.splits import create_splits_scenes
from PIL import Image
from shapely.geometry import MultiPoint
from synthetic_world import LABELS, SETTINGS, annotation

from bevfusion_plugin.synthetic_nuscenes import (
    CAMERAS,
    CLASSES,
    IMAGE_ONLY_PAIR,
    KEYFRAME_PERIOD,
    LIDAR,
    build_scene,
    sensor_view,
    token,
    visibility_token,
)

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
        str(path.relative_to(root)) for folder in ('samples', 'sweeps') for path in (root / folder).rglob('*.*')
    }
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
        expected = {
            'barrier': [],
            'trafficcone': [],
            'adult': ['pedestrian.moving' if moves else 'pedestrian.standing'],
            'bicycle': ['cycle.with_rider' if moves else 'cycle.without_rider'],
            'motorcycle': ['cycle.with_rider' if moves else 'cycle.without_rider'],
            'rigid': ['vehicle.moving' if moves else 'vehicle.stopped'],
        }
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


@pytest.mark.parametrize('fraction, expected', [(0.0, '1'), (0.39, '1'), (0.4, '2'), (0.6, '3'), (0.79, '3'), (1.0, '4')])
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
