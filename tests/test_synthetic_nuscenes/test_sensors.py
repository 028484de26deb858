"""The synthetic sensors against the slow obvious version."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from nuscenes.utils.data_classes import Box
from nuscenes.utils.geometry_utils import points_in_box
from PIL import Image
from shapely.geometry import MultiPoint, box
from synthetic_world import LABELS, SETTINGS, annotation, lidar_to_global

from bevfusion_plugin.synthetic_nuscenes import (
    CAMERAS,
    CLASSES,
    GROUND,
    IMAGE_ONLY_PAIR,
    KEYFRAME_PERIOD,
    LIDAR,
    build_scene,
    sensor_file,
    sensor_view,
    token,
)
from bevfusion_plugin.synthetic_nuscenes.camera import NOTHING, ShadowMap, render
from bevfusion_plugin.synthetic_nuscenes.lidar import SURFACE_INSET, scan

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
        standing = np.flatnonzero(~world.velocities[: world.num_objects].any(axis=1))
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
        before, after = (
            render(item, view, rig[channel], SETTINGS.image_size, shadows, np.random.default_rng(0)) for item in (world, swapped)
        )
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
            numbers = {annotation(nusc, scene, sample, index)['token']: index for index in range(scenes[scene][0].num_objects)}
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
    only = replace(
        world,
        labels=world.labels[[index]],
        start_centers=world.start_centers[[index]],
        sizes=np.array([[0.5, 0.5, 4.0]]),
        yaws=np.zeros(1),
        velocities=np.zeros((1, 2)),
        paints=world.paints[[index]],
    )
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


def test_the_lidar_takes_no_pictures(scenes):
    world, rig = scenes[0][:2]
    with pytest.raises(ValueError, match=f'{LIDAR} has no intrinsic matrix'):
        render(
            world,
            sensor_view(world, rig[LIDAR], 0),
            rig[LIDAR],
            SETTINGS.image_size,
            ShadowMap(world, 0.0, world.ego.pose(0.0)[0]),
            np.random.default_rng(0),
        )
