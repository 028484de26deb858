import pickle
from io import BytesIO

import numpy as np
import pytest
from goldens import nuscenes_sample
from matplotlib.figure import Figure
from PIL import Image

from bevfusion_plugin.visualization.box_lines import NEAR_PLANE, box_wireframes, compose_image_augmentation, project_segments
from bevfusion_plugin.visualization.scene_pictures import (
    CLASS_COLORS,
    MAX_EXTENT,
    NUSCENES_CAMERAS,
    VIEW_CELLS,
    SceneBoxes,
    box_colors,
    camera_order,
    draw_birds_eye_view,
    height_image,
    scene_figure,
    view_extent,
)

# Looks along +x of the lidar frame (u to the right is -y, v down is -z), focal length 100, middle at (50, 40).
FORWARD = np.array([[50.0, -100, 0, 0], [40, 0, -100, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
BACKWARD = np.array([[-50.0, 100, 0, 0], [-40, 0, -100, 0], [-1, 0, 0, 0], [0, 0, 0, 1]])
SIZE = (80, 100)  # H, W
NO_BOXES = SceneBoxes(np.zeros((0, 8, 3)), np.zeros(0, dtype=int), np.zeros(0))


def box(x, y, z=0.0, length=4.0, width=2.0, height=1.5, yaw=0.0):
    """Corners (8, 3) in mmdet3d's order of a box with its bottom centre at (x, y, z)."""
    signs = np.array([(0, 0, 0), (0, 0, 1), (0, 1, 1), (0, 1, 0), (1, 0, 0), (1, 0, 1), (1, 1, 1), (1, 1, 0)])
    local = (signs - (0.5, 0.5, 0)) * (length, width, height)
    turn = np.array([[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])
    return local @ turn.T + (x, y, z)


def boxes(*corners, labels=None, scores=None):
    return SceneBoxes(np.stack(corners), np.zeros(len(corners), dtype=int) if labels is None else np.array(labels), scores)


def pixels(figure):
    """The picture as (H, W, 3)."""
    file = BytesIO()
    figure.savefig(file)
    return np.asarray(Image.open(file).convert('RGB')).astype(int)


def has_color(image, color):
    rgb = [int(color[at : at + 2], 16) for at in (1, 3, 5)]
    return bool((np.abs(image - rgb).max(axis=-1) < 12).any())


def axes_pixels(image, axes):
    left, bottom, right, top = axes.get_position().extents * (image.shape[1::-1] * 2)
    return image[int(len(image) - top) : int(len(image) - bottom), int(left) : int(right)]


def test_augmentation_acts_on_pixels_after_the_division_by_depth():
    rng = np.random.default_rng(0)
    lidar2img = np.stack([FORWARD, BACKWARD])
    augmentation = np.tile(np.eye(4), (2, 1, 1))
    augmentation[:, :2, :2] = rng.normal(size=(2, 2, 2))
    augmentation[:, :2, 3] = rng.normal(size=(2, 2)) * 30
    points = np.concatenate([rng.uniform(-9, 9, size=(20, 3)), np.ones((20, 1))], axis=1)
    points[:, 0] = np.abs(points[:, 0]) + 1
    composed = compose_image_augmentation(lidar2img, augmentation)
    for camera in range(2):
        u, v, depth, _ = lidar2img[camera] @ points.T
        expected = augmentation[camera] @ np.stack([u / depth, v / depth, depth, np.ones(20)])
        got = composed[camera] @ points.T
        np.testing.assert_allclose(got[:2] / got[2], expected[:2], rtol=1e-9)
        np.testing.assert_allclose(got[2], depth)


def test_a_segment_in_front_is_projected_end_by_end():
    segment = np.array([[[10.0, 2, 1], [20, -4, 0]]])
    lines, which = project_segments(segment, FORWARD)
    np.testing.assert_allclose(lines, [[[50 - 20, 40 - 10], [50 + 20, 40]]])  # 100 * 2 / 10 = 20 and 100 * 4 / 20 = 20
    assert which.tolist() == [0]


@pytest.mark.parametrize('turned', [False, True])
def test_a_segment_that_goes_behind_the_camera_is_cut_in_front_of_it(turned):
    segment = np.array([[[10.0, 1, 0], [-10, 1, 0]]])  # along the optical axis, 1 m to the left of it
    lines, _ = project_segments(segment[:, ::-1] if turned else segment, FORWARD)
    ends = lines[0, ::-1] if turned else lines[0]
    np.testing.assert_allclose(ends, [[40, 40], [50 - 100 / NEAR_PLANE, 40]])  # still to the left, not smeared to the right


def test_cut_segments_cover_what_their_points_in_front_show():
    rng = np.random.default_rng(1)
    segments = rng.uniform(-5, 5, size=(200, 2, 3))
    lines, which = project_segments(segments, FORWARD)
    share = np.linspace(0, 1, 101)[:, None]
    for line, index in zip(lines, which):
        samples = segments[index, 0] * (1 - share) + segments[index, 1] * share
        samples = samples[samples[:, 0] > NEAR_PLANE]
        u = 50 - 100 * samples[:, 1] / samples[:, 0]
        assert (u >= line[:, 0].min() - 1e-6).all() and (u <= line[:, 0].max() + 1e-6).all()
    behind = (segments[..., 0] <= NEAR_PLANE).all(axis=1)
    assert behind.any() and not np.isin(np.flatnonzero(behind), which).any() and len(which) == (~behind).sum()


def test_a_box_in_view_gives_twelve_edges_and_a_front_cross():
    lines, which = box_wireframes(boxes(box(20, 0)).corners, FORWARD, SIZE)
    assert lines.shape == (14, 2, 2) and which.tolist() == [0] * 14
    # The front face at x = 22 is 2 m wide: 100 * 1 / 22 pixels to either side, its cross between its corners.
    np.testing.assert_allclose(np.abs(lines[12:, :, 0] - 50), 100 / 22)


def test_boxes_behind_or_beside_the_image_give_no_lines():
    corners = boxes(box(-20, 0), box(20, 80), box(20, 0, z=60), box(30, 1)).corners
    _, which = box_wireframes(corners, FORWARD, SIZE)
    assert set(which.tolist()) == {3}


def test_a_box_around_the_camera_has_finite_lines():
    lines, which = box_wireframes(boxes(box(0, 0, z=-0.5)).corners, FORWARD, SIZE)
    assert len(lines) and np.isfinite(lines).all() and set(which.tolist()) == {0}


def test_no_boxes_give_no_lines():
    lines, which = box_wireframes(NO_BOXES.corners, FORWARD, SIZE)
    assert lines.shape == (0, 2, 2) and which.shape == (0,)


def test_wireframes_span_the_2d_boxes_that_nuscenes_recorded():
    info = pickle.loads((nuscenes_sample() / 'nuscenes_infos_val.pkl').read_bytes())['data_list'][0]
    rows = np.array([instance['bbox_3d'] for instance in info['instances']])  # z at the middle
    corners = np.stack([box(x, y, z - h / 2, length, width, h, yaw) for x, y, z, length, width, h, yaw in rows])
    checked = 0
    for name, camera in info['images'].items():
        lidar2img = np.eye(4)
        lidar2img[:3] = np.array(camera['cam2img']) @ np.array(camera['lidar2cam'])[:3]
        middles = np.array(camera['lidar2cam'])[:3] @ np.append(rows[:, :3], np.ones((len(rows), 1)), axis=1).T  # (3, n)
        lines, which = box_wireframes(corners, lidar2img, (900, 1600))
        for recorded in info['cam_instances'][name]:
            left, top, right, bottom = recorded['bbox']
            if min(left, top, 1599 - right, 899 - bottom) < 1:
                continue  # recorded boxes are cut at the border, lines are not
            u, v = recorded['center_2d']
            middle = np.linalg.solve(camera['cam2img'], np.array([u, v, 1]) * recorded['depth'])
            ends = lines[which == np.linalg.norm(middles.T - middle, axis=1).argmin()].reshape(-1, 2)
            # They stand on the global ground, ours are upright in the slightly tilted lidar frame.
            np.testing.assert_allclose(
                [*ends.min(axis=0), *ends.max(axis=0)], recorded['bbox'], atol=1 + 0.06 * max(right - left, bottom - top)
            )
            checked += 1
    assert checked > 50


def test_nuscenes_cameras_come_in_the_devkits_rows_and_others_as_they_are():
    names = ['CAM_FRONT', 'CAM_FRONT_RIGHT', 'CAM_FRONT_LEFT', 'CAM_BACK', 'CAM_BACK_LEFT', 'CAM_BACK_RIGHT']
    assert [names[index] for index in camera_order(names)] == list(NUSCENES_CAMERAS)
    assert camera_order(['left', 'front', 'right']) == [0, 1, 2]
    assert camera_order([]) == []


@pytest.mark.parametrize('farthest, extent', [(53.9, 55), (-54, 55), (3, 5), (0, MAX_EXTENT), (105, MAX_EXTENT)])
def test_the_view_reaches_the_farthest_point_in_steps_of_five_metres(farthest, extent):
    assert view_extent(np.array([[0, farthest, 2], [1e-9, 0, 200]]) if farthest else np.zeros((0, 3))) == extent


def test_cells_hold_the_highest_point_by_row_y_and_column_x():
    points = np.array([[-9.99, 9.99, 1, 7], [-9.99, 9.99, 3, 7], [-9.99, 9.99, 2, 7], [9.99, -5, -1, 7], [10.01, 0, 5, 7]])
    image = height_image(points, extent=10)
    assert image[VIEW_CELLS - 1, 0] == 3 and image[VIEW_CELLS // 4, VIEW_CELLS - 1] == -1
    assert np.isfinite(image).sum() == 2
    assert np.isnan(height_image(np.zeros((0, 5)), extent=10)).all()


def test_colors_follow_the_class_and_fade_with_the_score():
    colors = box_colors(SceneBoxes(np.zeros((3, 8, 3)), np.array([1, 1, 1 + len(CLASS_COLORS)]), np.array([1.0, 0.3, 0.6])))
    assert (colors[:, :3] == colors[0, :3]).all()
    assert colors[0, 3] == 1 and colors[1, 3] < colors[2, 3] < 1
    assert (box_colors(boxes(box(0, 0)))[:, 3] == 1).all()


def test_the_birds_eye_view_outlines_boxes_and_points_their_tick_forward():
    axes = Figure().add_subplot()
    draw_birds_eye_view(axes, np.array([[1.0, 2, 0]]), boxes(box(5, 3, yaw=np.pi / 2)), extent=20, title='here')
    outline, tick = (collection.get_segments()[0] for collection in axes.collections)
    np.testing.assert_allclose(outline.min(axis=0), [4, 1])
    np.testing.assert_allclose(outline.max(axis=0), [6, 5])
    np.testing.assert_allclose(np.linalg.norm(np.diff(outline, axis=0), axis=1), [2, 4, 2, 4])
    np.testing.assert_allclose(tick[0], [5, 3], atol=1e-9)
    assert tick[1][0] == pytest.approx(5) and tick[1][1] > 5  # out of the front, which looks along +y
    assert axes.get_xlim() == axes.get_ylim() == (-20, 20) and axes.get_xlabel() == 'x [m]'
    assert [text.get_text() for text in axes.texts] == ['10 m']


def six_cameras():
    images = np.tile(np.arange(30, 36, dtype=np.uint8)[:, None, None, None], (1, *SIZE, 3))
    names = ['CAM_FRONT', 'CAM_FRONT_RIGHT', 'CAM_FRONT_LEFT', 'CAM_BACK', 'CAM_BACK_LEFT', 'CAM_BACK_RIGHT']
    return dict(images=images, lidar2img=np.stack([FORWARD] + [BACKWARD] * 5), camera_names=names)


def test_a_page_shows_ground_truth_and_prediction_of_every_camera():
    truth, found = boxes(box(12, 0), labels=[0]), boxes(box(-12, 0), labels=[1], scores=np.ones(1))
    figure = scene_figure(np.array([[3.0, 4, 0]]), found, truth, **six_cameras(), class_names=['car', 'bus'])
    cameras = {axes.texts[0].get_text(): axes for axes in figure.axes if not axes.get_title(loc='left')}
    assert list(cameras) == [f'{name}, {side}' for side in ('ground truth', 'prediction') for name in NUSCENES_CAMERAS]
    image = pixels(figure)
    shows = {name: [has_color(axes_pixels(image, axes), color) for color in CLASS_COLORS[:2]] for name, axes in cameras.items()}
    assert shows['CAM_FRONT, ground truth'] == [True, False] and shows['CAM_FRONT, prediction'] == [False, False]
    assert shows['CAM_BACK, ground truth'] == [False, False] and shows['CAM_BACK, prediction'] == [False, True]
    assert shows['CAM_FRONT_LEFT, ground truth'] == [False, False]
    assert [cameras[f'{name}, prediction'].images[0].get_array().max() for name in six_cameras()['camera_names']] == [
        30,
        31,
        32,
        33,
        34,
        35,
    ]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ['car: 1 / 0', 'bus: 0 / 1']


def test_ground_truth_stands_above_the_prediction_of_the_same_camera():
    figure = scene_figure(np.zeros((0, 3)), NO_BOXES, NO_BOXES, **six_cameras())
    place = {axes.texts[0].get_text(): axes.get_position() for axes in figure.axes if axes.texts}
    upper, lower = place['CAM_BACK, ground truth'], place['CAM_BACK, prediction']
    assert upper.y0 > lower.y1 and upper.x0 == pytest.approx(lower.x0)
    assert place['CAM_FRONT, prediction'].y0 > upper.y1
    assert min(box.y0 for box in place.values()) >= 0


def test_without_cameras_or_ground_truth_the_page_is_one_birds_eye_view():
    figure = scene_figure(np.zeros((0, 3)), boxes(box(1, 1), labels=[7]))
    assert len(figure.axes) == 1 and figure.axes[0].get_title(loc='left') == 'prediction (1 boxes)'
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ['class 7: 1']
    assert pixels(figure).shape[2] == 3


def test_drawing_leaves_its_input_and_pyplot_alone():
    import matplotlib.pyplot as plt

    points, scene = np.array([[3.0, 4, 0]]), six_cameras()
    found = boxes(box(12, 0), scores=np.ones(1))
    copies = points.copy(), found.corners.copy(), scene['images'].copy(), scene['lidar2img'].copy()
    pixels(scene_figure(points, found, **scene))
    for before, after in zip(copies, (points, found.corners, scene['images'], scene['lidar2img'])):
        assert (before == after).all()
    assert plt.get_fignums() == []


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(points=np.zeros((4, 2))), r'points must be .* got \(4, 2\)'),
        (dict(prediction=SceneBoxes(np.zeros((2, 8, 3)), np.zeros(1))), 'prediction: 1 labels need corners'),
        (dict(ground_truth=SceneBoxes(np.zeros((1, 8, 3)), np.zeros(1), np.zeros(2))), 'ground truth: 1 labels need .* scores: 2'),
        (dict(images=np.zeros((6, 80, 100, 3))), 'images must be .* uint8, got .* of float64'),
        (dict(lidar2img=None), '6 images need lidar2img .* got None'),
        (dict(camera_names=['a']), 'as many camera_names, got .* and 1 names'),
    ],
)
def test_shapes_that_do_not_fit_are_named(change, message):
    scene = dict(points=np.zeros((4, 3)), prediction=NO_BOXES, ground_truth=NO_BOXES, **six_cameras())
    with pytest.raises(ValueError, match=message):
        scene_figure(**{**scene, **change})
