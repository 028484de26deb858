"""ImageAug3D against the recorded reference, and its matrix against what is seen."""

from __future__ import annotations

import numpy as np
import pytest
from goldens import load_golden
from PIL import Image

from bevfusion_plugin.datasets.image_aug_3d import ImageAug3D, ImageAugmentation, image_aug_matrix, resize_and_crop
from bevfusion_plugin.registry import TRANSFORMS

CFG = dict(final_dim=[24, 40], resize_lim=[0.4, 0.6], bot_pct_lim=[0.0, 0.1], rot_lim=[-5.4, 5.4], rand_flip=True, is_train=True)


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize('name', ['image_aug3d_train', 'image_aug3d_test', 'image_aug3d_bottom_crop'])
def test_pixels_matrices_and_random_draws_equal_the_reference(name):
    golden = load_golden(name)
    meta = golden.meta
    transform = TRANSFORMS.build(dict(type='bevfusion_plugin.ImageAug3D', **meta['cfg']))
    dtype = 'float32' if meta['array_docs']['in/img0'].endswith('float32') else 'uint8'
    images = [golden.arrays[f'in/img{i}'].astype(dtype) for i in range(meta['n_images'])]
    for seed in meta['seeds']:
        np.random.seed(seed)
        results = transform(dict(img=images, ori_shape=tuple(meta['ori_shape'])))
        np.testing.assert_array_equal(np.random.rand(2), golden.arrays[f'seed{seed}/rng_tail'])
        for i, (image, matrix) in enumerate(zip(results['img'], results['img_aug_matrix'], strict=True)):
            assert image.dtype == matrix.dtype == np.float32
            np.testing.assert_array_equal(image, golden.arrays[f'seed{seed}/img{i}'])
            np.testing.assert_allclose(matrix, golden.arrays[f'seed{seed}/img_aug_matrix{i}'], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('same_scale', [True, False])
def test_leaving_out_unseen_rows_and_columns_changes_no_pixel(same_scale):
    rng = np.random.default_rng(1)
    for _ in range(200):
        image = rng.integers(0, 2, (*rng.integers(4, 90, 2), 3), dtype=np.uint8) * 255
        scale = rng.uniform(0.25, 1.4, 1 if same_scale else 2)
        size = tuple(int(n) for n in np.maximum(image.shape[1::-1] * scale, 1))
        left, top = int(rng.integers(-20, 80)), int(rng.integers(-20, 80))
        crop = left, top, left + int(rng.integers(1, 60)), top + int(rng.integers(1, 60))
        plain = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC).crop(crop)
        np.testing.assert_array_equal(
            np.asarray(resize_and_crop(image, size, crop)), np.asarray(plain), f'{image.shape} to {size}, crop {crop}'
        )


@pytest.mark.parametrize('flip', [False, True])
@pytest.mark.parametrize('rotate', [0.0, 90.0])
def test_matrix_sends_a_pixel_to_where_it_is_seen(flip, rotate):
    image = np.zeros((40, 80, 3), np.uint8)
    image[20:24, 30:34] = 255  # its middle is (u, v) = (32, 22)
    augmentation = ImageAugmentation(0.5, (40, 20), (6, 0, 26, 20), flip, rotate)
    transform = ImageAug3D(**CFG)
    transform.sample_augmentation = lambda shape: augmentation
    results = transform(dict(img=[image], ori_shape=(40, 80)))
    rows, columns = np.nonzero(results['img'][0][..., 0] > 128)
    u, v, *_ = results['img_aug_matrix'][0] @ np.array([32, 22, 0, 1])
    assert (columns.mean() + 0.5, rows.mean() + 0.5) == pytest.approx((u, v), abs=0.6)


def test_matrix_by_hand_for_resize_and_crop():
    matrix = image_aug_matrix(ImageAugmentation(0.5, (40, 20), (3, 4, 23, 14), False, 0.0))
    np.testing.assert_allclose(matrix, [[0.5, 0, 0, -3], [0, 0.5, 0, -4], [0, 0, 1, 0], [0, 0, 0, 1]], atol=1e-6)


def test_test_mode_draws_nothing_and_takes_the_middle():
    np.random.seed(3)
    augmentation = ImageAug3D(**dict(CFG, is_train=False)).sample_augmentation((80, 160))
    assert augmentation == (0.5, (80, 40), (20, 14, 60, 38), False, 0.0)
    first = np.random.rand()
    np.random.seed(3)
    assert np.random.rand() == first


def test_uint8_and_float_images_give_the_same_and_stay_unchanged():
    image = picture(60, 100)
    before = image.copy()
    out = []
    for source in (image, image.astype(np.float32)):
        np.random.seed(0)
        out.append(ImageAug3D(**CFG)(dict(img=[source], ori_shape=(60, 100)))['img'][0])
    np.testing.assert_array_equal(*out)
    np.testing.assert_array_equal(image, before)


def test_crop_beyond_the_resized_image_is_black():
    small = ImageAug3D(**dict(CFG, final_dim=[32, 64], resize_lim=[0.25, 0.25], bot_pct_lim=[0, 0], is_train=False))
    image = small(dict(img=[np.full((60, 100, 3), 200, np.uint8)], ori_shape=(60, 100)))['img'][0]
    assert image.shape == (32, 64, 3)
    assert (image[-15:, :25] == 200).all() and (image[:17] == 0).all() and (image[:, 25:] == 0).all()


def test_wrong_input_says_what_to_do():
    with pytest.raises(ValueError, match=r'rot_lim must be 2 finite numbers, got \[5\]'):
        ImageAug3D(**dict(CFG, rot_lim=[5]))
    with pytest.raises(ValueError, match=r"\(60, 100\).*color_type='color'"):
        ImageAug3D(**CFG)(dict(img=[picture(60, 100)[..., 0]], ori_shape=(60, 100)))
    with pytest.raises(KeyError, match='BEVLoadMultiViewImageFromFiles'):
        ImageAug3D(**CFG)(dict(img=[picture(60, 100)]))


@pytest.mark.parametrize('height, width', [(48, 64), (90, 160), (36, 40), (20, 400)])
def test_fitted_to_the_width_a_factor_of_1_shows_the_whole_width_of_any_camera(height, width):
    transform = ImageAug3D(
        final_dim=[24, 40], resize_lim=[1, 1], bot_pct_lim=[0, 0], rot_lim=[0, 0], rand_flip=False, is_train=False, fit_width=True
    )
    matrix = transform(dict(img=[picture(height, width)], ori_shape=(height, width)))['img_aug_matrix'][0]
    assert (matrix @ [0, 0, 0, 1])[0] == pytest.approx(0, abs=1) and (matrix @ [width, 0, 0, 1])[0] == pytest.approx(40, abs=1)
    assert (matrix @ [0, height, 0, 1])[1] == pytest.approx(24, abs=1), 'the lower edge stays'
