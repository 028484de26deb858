"""Image loading against the recorded reference, and its errors."""

from __future__ import annotations

import io

import numpy as np
import pytest
from goldens import Golden, load_golden, nuscenes_sample
from mmcv import imfrombytes
from mmengine.fileio import load
from PIL import ExifTags, Image

from bevfusion_plugin.datasets.image_aug_3d import ImageAug3D
from bevfusion_plugin.datasets.loading import BEVLoadMultiViewImageFromFiles, camera_matrices, decode, rigid_inverse
from bevfusion_plugin.registry import TRANSFORMS

MATRICES = ['cam2img', 'lidar2cam', 'cam2lidar', 'lidar2img']


def load_images(images: dict, **cfg) -> dict:
    return TRANSFORMS.build(dict(type='bevfusion_plugin.BEVLoadMultiViewImageFromFiles', color_type='color', **cfg))(dict(images=images))


def cameras_of(golden: Golden, folder) -> dict:
    cameras = {}
    for i in range(golden.meta['n_images']):
        path = folder / f'{i}.png'
        path.write_bytes(golden.arrays[f'in/png{i}'].tobytes())
        cameras[f'CAM{i}'] = dict(
            img_path=str(path), lidar2cam=golden.arrays[f'in/lidar2cam{i}'].tolist(), cam2img=golden.arrays[f'in/cam2img{i}'].tolist()
        )
    return cameras


def one_camera(folder, size=(6, 4)) -> dict:
    path = folder / 'CAM_FRONT.png'
    Image.new('RGB', size, (1, 2, 3)).save(path)
    return dict(CAM_FRONT=dict(img_path=str(path), lidar2cam=np.eye(4).tolist(), cam2img=np.eye(3).tolist()))


@pytest.mark.parametrize('name', ['bev_load_synthetic', 'bev_load_synthetic_padding'])
def test_images_matrices_and_keys_equal_the_reference(name, tmp_path):
    golden = load_golden(name)
    meta = golden.meta
    results = load_images(cameras_of(golden, tmp_path), to_float32=meta['to_float32'], num_views=meta['num_views'])
    assert sorted(results) == meta['keys']
    for key in ('img_shape', 'ori_shape', 'pad_shape'):
        assert results[key] == tuple(meta[key])
    for key in ('scale_factor', 'num_views', 'num_ref_frames'):
        assert results[key] == meta[key]
    for key in [*MATRICES, 'ori_cam2img']:
        expected = golden.arrays[f'out/{key}']
        assert results[key].dtype == expected.dtype, key
        np.testing.assert_allclose(results[key], expected, rtol=1e-6, atol=1e-5 if 'img' in key else 1e-7, err_msg=key)
    for i, image in enumerate(results['img']):
        assert image.dtype == meta['img_dtype']
        np.testing.assert_array_equal(image, golden.arrays[f'out/img{i}'])


def test_real_frame_equals_the_reference():
    golden = load_golden('bev_load_real_frame')
    root = nuscenes_sample()
    info = load(root / 'nuscenes_infos_val.pkl')['data_list'][0]
    for name, camera in info['images'].items():
        camera['img_path'] = str(root / 'samples' / name / camera['img_path'])
    assert list(info['images']) == golden.meta['camera_order']
    results = load_images(info['images'], to_float32=True)
    for key in MATRICES:
        np.testing.assert_allclose(results[key], golden.arrays[f'out/{key}'], rtol=1e-6, atol=1e-4, err_msg=key)
    images = np.stack(results['img'])
    rows, columns = golden.arrays['pixels/index'].T
    assert np.abs(images[:, rows, columns] - golden.arrays['pixels/value']).max() <= 1  # JPEG decoders differ by 1
    np.testing.assert_allclose(images.mean((1, 2), dtype=np.float64), golden.arrays['pixels/mean'], atol=0.02)


@pytest.mark.parametrize('color_type', ['color', 'grayscale', 'unchanged', 'color_ignore_orientation'])
@pytest.mark.parametrize('mode, orientation', [('RGB', None), ('RGB', 6), ('L', None), ('RGBA', None)])
def test_decoding_equals_mmcv(color_type, mode, orientation):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, len(Image.new(mode, (1, 1)).getbands())), dtype=np.uint8)
    exif = Image.Exif()
    if orientation:
        exif[ExifTags.Base.Orientation] = orientation
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(file, 'PNG', exif=exif)
    expected = imfrombytes(file.getvalue(), flag=color_type, channel_order='rgb', backend='pillow')
    decoded, recorded = decode(file.getvalue(), color_type)
    np.testing.assert_array_equal(decoded, expected)
    assert decoded.flags.writeable and recorded == expected.shape[:2]


def encoded(format, size=(32, 16), orientation=1):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    columns = np.broadcast_to(np.linspace(0, 255, size[0], dtype=np.uint8)[None, :, None], (size[1], size[0], 3))
    file = io.BytesIO()
    Image.fromarray(columns.copy()).save(file, format, exif=exif)
    return file.getvalue()


def test_a_draft_is_the_small_image_and_tells_the_recorded_size():
    whole, _ = decode(encoded('JPEG'), 'color')
    draft, recorded = decode(encoded('JPEG'), 'color', draft_factor=2)
    assert draft.shape == (8, 16, 3) and recorded == (16, 32)
    halved = whole.reshape(8, 2, 16, 2, 3).mean((1, 3))
    assert 0 < np.abs(draft - halved).max() <= 3  # grey levels


@pytest.mark.parametrize('content, reason', [(encoded('PNG'), 'JPEG images, got PNG'), (encoded('JPEG', orientation=6), 'upright RGB')])
def test_what_cannot_be_reduced_is_refused_as_a_draft(content, reason):
    with pytest.raises(ValueError, match=f'{reason}.*draft_factor=1'):
        decode(content, 'color', draft_factor=2)


def test_a_draft_keeps_shape_and_matrices_of_the_recorded_image(tmp_path):
    path = tmp_path / 'CAM_FRONT.jpg'
    path.write_bytes(encoded('JPEG'))
    camera = dict(CAM_FRONT=dict(img_path=str(path), lidar2cam=np.eye(4), cam2img=np.eye(3)))
    augment = ImageAug3D(final_dim=(4, 8), resize_lim=(0.3, 0.3), bot_pct_lim=(0, 0), rot_lim=(0, 0), rand_flip=False, is_train=False)
    whole, draft = (augment(load_images(camera, draft_factor=factor)) for factor in (1, 2))
    assert draft['ori_shape'] == whole['ori_shape'] == (16, 32)
    np.testing.assert_array_equal(draft['img_aug_matrix'][0], whole['img_aug_matrix'][0])
    assert np.abs(draft['img'][0] - whole['img'][0]).max() <= 4


@pytest.mark.parametrize('arguments', [dict(draft_factor=3, color_type='color'), dict(draft_factor=2)])
def test_an_impossible_draft_is_refused_at_construction(arguments):
    with pytest.raises(ValueError, match='draft_factor must be 1, 2, 4 or 8'):
        BEVLoadMultiViewImageFromFiles(**arguments)


def test_inverse_of_a_rigid_transform():
    matrix = np.array([[0.0, -1, 0, 5], [1, 0, 0, 6], [0, 0, 1, 7], [0, 0, 0, 1]])
    np.testing.assert_allclose(rigid_inverse(matrix), np.linalg.inv(matrix), atol=1e-6)


@pytest.mark.parametrize('shape', [(3, 3), (3, 4), (4, 4)])
def test_camera_matrix_may_come_in_any_shape(shape):
    cam2img = np.eye(4)[: shape[0], : shape[1]] * 2
    cam2img[0, 2] = 9.0
    matrices = camera_matrices([dict(lidar2cam=np.eye(4), cam2img=cam2img)])
    np.testing.assert_array_equal(matrices['lidar2img'][0, :3, :3], [[2, 0, 9], [0, 2, 0], [0, 0, 2]])


def test_one_camera_is_enough(tmp_path):
    results = load_images(one_camera(tmp_path))
    assert len(results['img']) == 1 and results['img'][0].dtype == np.uint8
    np.testing.assert_array_equal(results['img'][0][0, 0], [1, 2, 3])
    assert results['lidar2img'].shape == (1, 4, 4)


def test_missing_image_names_path_and_layout(tmp_path):
    cameras = one_camera(tmp_path)
    cameras['CAM_FRONT']['img_path'] += '.gone'
    with pytest.raises(FileNotFoundError, match=r'CAM_FRONT.png.gone; expected .*samples/CAM_FRONT.*data_root'):
        load_images(cameras)


def test_broken_image_names_its_path(tmp_path):
    cameras = one_camera(tmp_path, size=(200, 200))
    path = cameras['CAM_FRONT']['img_path']
    with open(path, 'r+b') as file:
        file.truncate(80)
    with pytest.raises(OSError, match='cannot be decoded.*CAM_FRONT.png'):
        load_images(cameras)


@pytest.mark.parametrize('images', [{}, None])
def test_sample_without_cameras_says_how_to_get_them(images):
    with pytest.raises(KeyError, match='use_camera=True'):
        load_images(images)


def test_camera_without_calibration_is_named(tmp_path):
    cameras = one_camera(tmp_path)
    del cameras['CAM_FRONT']['lidar2cam']
    with pytest.raises(KeyError, match=r"CAM_FRONT lacks \['lidar2cam'\]"):
        load_images(cameras)


def test_earlier_frames_are_refused_at_construction():
    with pytest.raises(ValueError, match='num_ref_frames must be <= 0, got 2'):
        BEVLoadMultiViewImageFromFiles(num_ref_frames=2)


def kitti_images(folder) -> dict:
    """``images`` of mmdet3d's KITTI infos: four cameras, one with a picture, and a matrix."""
    path = folder / 'CAM2.png'
    Image.new('RGB', (12, 4), (1, 2, 3)).save(path)
    images = {f'CAM{i}': dict(cam2img=np.eye(4).tolist()) for i in range(4)}
    images['CAM2'].update(img_path=str(path), height=4, width=12, lidar2cam=np.eye(4).tolist(), lidar2img=np.eye(4).tolist())
    return dict(images, R0_rect=np.eye(4).tolist())


def test_of_kittis_cameras_the_one_with_a_picture_is_loaded(tmp_path):
    results = load_images(kitti_images(tmp_path))
    assert [image.shape for image in results['img']] == [(4, 12, 3)] and results['lidar2img'].shape == (1, 4, 4)


def test_cameras_are_chosen_by_name_and_in_that_order(tmp_path):
    cameras = {}
    for index, name in enumerate(['LEFT', 'FRONT', 'RIGHT']):
        path = tmp_path / f'{name}.png'
        Image.new('RGB', (6, 4), (index, 0, 0)).save(path)
        cameras[name] = dict(img_path=str(path), lidar2cam=np.eye(4), cam2img=np.eye(3))
    results = load_images(cameras, cameras=['RIGHT', 'LEFT'])
    assert [image[0, 0, 0] for image in results['img']] == [2, 0]
    assert [path[-8:-4] for path in results['img_path']] == ['IGHT', 'LEFT'] and results['lidar2img'].shape == (2, 4, 4)


@pytest.mark.parametrize(
    'chosen, message',
    [(['CAM0'], r'no picture \(img_path\) of CAM0; cameras with one: CAM2'), (['CAM2', 'CAM9'], r'of CAM9; .*cameras=\[\.\.\.\]')],
)
def test_a_chosen_camera_without_a_picture_is_refused_by_name(chosen, message, tmp_path):
    with pytest.raises(KeyError, match=message):
        load_images(kitti_images(tmp_path), cameras=chosen)


def test_no_camera_with_a_picture_is_a_clear_error(tmp_path):
    images = kitti_images(tmp_path)
    del images['CAM2']['img_path']
    with pytest.raises(KeyError, match='no picture .img_path. of any camera; cameras with one: none, listed in images: CAM0, CAM1'):
        load_images(images)


@pytest.mark.parametrize('cameras', [[], 'CAM2'])
def test_cameras_must_be_names(cameras):
    with pytest.raises(ValueError, match='cameras must be names of cameras'):
        BEVLoadMultiViewImageFromFiles(cameras=cameras)


def two_heights(folder) -> dict:
    """A large and a low camera, as Waymo has; each image brightens towards its lower edge."""
    cameras = {}
    for name, height in dict(FRONT=1280, SIDE=886).items():
        path = folder / f'{name}.jpg'
        rows = np.linspace(20, 255, height, dtype=np.uint8)
        Image.fromarray(np.ascontiguousarray(np.broadcast_to(rows[:, None, None], (height, 1920, 3)))).save(path, quality=95)
        cameras[name] = dict(img_path=str(path), lidar2cam=np.eye(4), cam2img=np.eye(3))
    return cameras


@pytest.mark.parametrize('draft_factor', [1, 2])
def test_each_camera_is_cut_from_its_own_size(draft_factor, tmp_path):
    loaded = load_images(two_heights(tmp_path), draft_factor=draft_factor)
    augment = ImageAug3D(final_dim=(256, 704), resize_lim=(0.4, 0.4), bot_pct_lim=(0, 0), rot_lim=(0, 0), rand_flip=False, is_train=False)
    results = augment(loaded)
    for image, matrix, height in zip(results['img'], results['img_aug_matrix'], (1280, 886)):
        assert image.shape == (256, 704, 3)
        assert (image == 0).mean() < 0.001, 'nothing is black'
        # the lowest recorded row is the lowest row of the cut: it is bright, and the matrix says so
        assert image[-1].mean() > 250
        np.testing.assert_allclose(matrix[:2, :2] @ [0, height] + matrix[:2, 3], [-32, 256], atol=1)  # (768 - 704) / 2 = 32


def test_cameras_of_one_size_leave_the_info_as_it_was(tmp_path):
    cameras = one_camera(tmp_path)
    load_images(cameras)
    assert set(cameras['CAM_FRONT']) == {'img_path', 'lidar2cam', 'cam2img'}
