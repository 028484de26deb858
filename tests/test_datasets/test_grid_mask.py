"""GridMask against the recorded reference and against a loop over its stripes."""

from __future__ import annotations

import numpy as np
import pytest
from goldens import load_golden

from bevfusion_plugin.datasets.grid_mask import GridMask, stripes
from bevfusion_plugin.registry import TRANSFORMS

CFG = dict(use_h=True, use_w=True, max_epoch=6, rotate=1, offset=False, ratio=0.5, mode=1, prob=1.0, fixed_prob=True)


def images() -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(1, 256, (2, 24, 36, 3)).astype(np.float32))


def test_images_and_random_draws_equal_the_reference():
    golden = load_golden('grid_mask')
    for index, case in enumerate(golden.meta['cases']):
        transform = TRANSFORMS.build(dict(type='bevfusion_plugin.GridMask', **case['cfg']))
        if case['set_epoch'] is not None:
            transform.set_epoch(case['set_epoch'])
        assert transform.prob == case['prob_after']
        if case['error']:  # offset=True, which fails in the reference
            continue
        np.random.seed(case['seed'])
        results = transform(dict(img=[golden.arrays[f'in/img{i}'].astype(np.float32) for i in range(2)]))
        np.testing.assert_array_equal(np.random.rand(2), golden.arrays[f'case{index}/rng_tail'])
        for i, image in enumerate(results['img']):
            assert image.dtype == np.float32
            np.testing.assert_array_equal(image, golden.arrays[f'case{index}/img{i}'], f'case {index}')


def test_stripes_equal_a_loop():
    rng = np.random.default_rng(0)
    for _ in range(200):
        size, d = int(rng.integers(2, 60)), int(rng.integers(2, 20))
        start, length = int(rng.integers(0, d)), int(rng.integers(1, d))
        expected = np.zeros(size, bool)
        for i in range(size // d):
            expected[d * i + start : d * i + start + length] = True
        np.testing.assert_array_equal(stripes(size, d, start, length), expected, f'{size} {d} {start} {length}')


@pytest.mark.parametrize('mode', [0, 1])
def test_offset_fills_exactly_the_masked_pixels_with_small_noise(mode):
    results = []
    for offset in (False, True):
        np.random.seed(2)
        results.append(GridMask(**dict(CFG, offset=offset, mode=mode))(dict(img=images()))['img'])
    for plain, noisy in zip(*results, strict=True):
        masked = plain == 0
        assert 0 < masked.sum() < masked.size and noisy.dtype == np.float32
        np.testing.assert_array_equal(noisy[~masked], plain[~masked])
        assert (noisy[masked] != 0).all() and (np.abs(noisy[masked]) <= 1).all()


def test_modes_are_each_others_complement():
    masks = []
    for mode in (0, 1):
        np.random.seed(1)
        masks.append(GridMask(**dict(CFG, mode=mode)).sample_mask(24, 36))
    np.testing.assert_array_equal(masks[0] + masks[1], np.ones((24, 36)))


def test_probability_grows_with_the_epoch_unless_fixed():
    growing, fixed = GridMask(**dict(CFG, prob=0.6, fixed_prob=False)), GridMask(**dict(CFG, prob=0.6))
    for transform in (growing, fixed):
        transform.set_epoch(3)
    assert growing.prob == pytest.approx(0.3) and fixed.prob == 0.6


def test_caller_keeps_its_images():
    held = images()
    GridMask(**CFG)(dict(img=held))
    np.testing.assert_array_equal(held, images())


def test_missing_images_name_the_loading_step():
    with pytest.raises(KeyError, match='BEVLoadMultiViewImageFromFiles'):
        GridMask(**CFG)({})
