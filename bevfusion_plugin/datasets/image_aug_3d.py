"""Resize, crop, flip and rotation of camera images, with the matrix that tells the view transform about it.

Letters: H x W source image, h x w = ``final_dim``; (u, v) = (column, row) in pixels.
"""

from __future__ import annotations

import math
from typing import NamedTuple
from collections.abc import Sequence

import numpy as np
from mmcv.transforms import BaseTransform
from PIL import Image

from bevfusion_plugin.plan.checked_settings import low_and_high, switch, whole_numbers
from bevfusion_plugin.registry import TRANSFORMS

LEAST_SCALE = 0.01  # of an image: 16 pixels of 1600


class ImageAugmentation(NamedTuple):
    """One draw: resize to ``size`` (factor ``resize``), cut ``crop``, mirror if ``flip``, turn by ``rotate``."""

    resize: float
    size: tuple[int, int]  # (width, height)
    crop: tuple[int, int, int, int]  # (left, top, right, bottom) in the resized image; may reach beyond it
    flip: bool
    rotate: float  # degrees, counter-clockwise as seen


def image_aug_matrix(augmentation: ImageAugmentation) -> np.ndarray:
    """The (4, 4) float32 matrix from (u, v) of the source image to (u, v) of the augmented one.

    Scale is the drawn factor, not the ratio of the whole-pixel sizes. Mirroring and turning are about the
    middle of the crop.

    Source:
        mmdetection3d 1.4.0 ``projects/BEVFusion`` (``ImageAug3D``): same matrix, same float32 arithmetic.
    """
    left, top, right, bottom = augmentation.crop
    size = np.array([right - left, bottom - top], dtype=np.float32)
    linear = np.eye(2, dtype=np.float32) * np.float32(augmentation.resize)
    shift = -np.array([left, top], dtype=np.float32)
    if augmentation.flip:
        linear[0] *= -1
        shift = np.array([size[0] - shift[0], shift[1]], dtype=np.float32)
    angle = augmentation.rotate / 180 * np.pi
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]], dtype=np.float32)
    middle = size / 2
    matrix = np.eye(4, dtype=np.float32)
    matrix[:2, :2] = turn @ linear
    matrix[:2, 3] = turn @ shift + (turn @ -middle + middle)
    return matrix


def rows_behind(height: int, new_height: int, top: int, bottom: int) -> tuple[int, int]:
    """The source rows [first, last) that rows [``top``, ``bottom``) of the shrunken image are made of."""
    scale = height / new_height
    reach = 2 * scale + 1  # half width of the bicubic kernel, and a row for rounding
    return max(math.floor((top + 0.5) * scale - reach), 0), min(math.ceil((bottom - 0.5) * scale + reach), height)


def resize_and_crop(image: np.ndarray, size: tuple[int, int], crop: tuple[int, int, int, int]) -> Image.Image:
    """Pillow's ``resize(size).crop(crop)``, bit for bit, without resampling much of what the crop throws away.

    Pillow shrinks along the rows first and down the columns second, each with its own 8-bit result. So source rows
    that the crop does not show can stay out of the first pass, and columns out of the second; BEVFusion's crop
    drops up to half of the rows. Pillow 13 swaps the passes if the height shrinks by far more pixels than the width
    (python-pillow/Pillow#9549), which a camera image scaled alike in both directions does not do.

    Args:
        image: (H, W, 3), values in [0, 255], truncated to uint8.
        size: New (width, height).
        crop: (left, top, right, bottom) in the resized image; black where it reaches beyond.
    """
    height, width = image.shape[:2]
    left, right = max(crop[0], 0), min(crop[2], size[0])
    top, bottom = max(crop[1], 0), min(crop[3], size[1])
    rows_first = size[1] < height and height - size[1] <= width - size[0]
    if not rows_first or left >= right or top >= bottom:
        return Image.fromarray(np.asarray(image, dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC).crop(crop)
    first, last = rows_behind(height, size[1], top, bottom)
    strip = Image.fromarray(np.asarray(image[first:last], dtype=np.uint8))
    strip = strip.resize((size[0], last - first), Image.Resampling.BICUBIC)
    strip = strip.crop((left, -first, right, height - first))  # the rows left out are black again
    return strip.resize((right - left, size[1]), Image.Resampling.BICUBIC).crop((crop[0] - left, crop[1], crop[2] - left, crop[3]))


def augment_image(image: np.ndarray, augmentation: ImageAugmentation) -> np.ndarray:
    """The augmented image (h, w, 3), float32 in [0, 255]; ``image`` (H, W, 3) is not changed.

    Values are truncated to uint8. Resizing is Pillow's bicubic, rotation its nearest neighbour; what the crop or
    the rotation brings in from outside is black.
    """
    augmented = resize_and_crop(image, augmentation.size, augmentation.crop)
    if augmentation.flip:
        augmented = augmented.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(augmented.rotate(augmentation.rotate)).astype(np.float32)


def own_sizes(results: dict) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """(H, W) of each image of ``results`` without padding, and as recorded.

    They differ between cameras where ``BEVLoadMultiViewImageFromFiles`` noted them in ``images``, for each camera that it loaded.
    """
    noted = [camera for camera in (results.get('images') or {}).values() if isinstance(camera, dict) and 'ori_shape' in camera]
    if len(noted) != len(results['img']):
        return [(image.shape[:2], results['ori_shape']) for image in results['img']]
    by_path = {camera['img_path']: (camera['img_shape'], camera['ori_shape']) for camera in noted}
    return [by_path[path] for path in results['img_path']]


@TRANSFORMS.register_module()
class ImageAug3D(BaseTransform):
    """Augments every camera image on its own and records how in ``img_aug_matrix``.

    Reads ``img`` (list of (H, W, 3) RGB arrays) and ``ori_shape``, or, where the loader found cameras of different sizes, that of
    each under ``images``: an image is cut from what its camera recorded, without the black that pads it to the largest. Replaces
    ``img`` by float32 arrays of ``final_dim`` and adds ``img_aug_matrix``, a (4, 4) float32 matrix for each (see
    :func:`image_aug_matrix`).
    In training each image draws from numpy's global state, in this order: resize, bottom crop, horizontal crop,
    flip (only if ``rand_flip``), rotation. In test mode nothing is drawn: the middle of the limits, no flip.

    Args:
        final_dim: (h, w) of the result.
        resize_lim: Range of the resize factor.
        bot_pct_lim: Range of the share of rows cut off at the bottom.
        rot_lim: Range of the rotation in degrees.
        rand_flip: Mirror half of the images.
        is_train: Draw at random.
        fit_width: Count the resize factor from the one that makes an image as wide as ``final_dim``, for cameras of any size: 1 is that
            one, and 0.48 of nuScenes' 1600 pixels to 704 is 1.09.

    Raises:
        ValueError: A range is not a pair in order, another argument cannot be, or an image is not (H, W, 3).
        KeyError: ``img`` or ``ori_shape`` is missing.

    Source:
        mmdetection3d 1.4.0 ``projects/BEVFusion``: same draws, pixels and matrices.
    """

    def __init__(
        self,
        final_dim: Sequence[int],
        resize_lim: Sequence[float],
        bot_pct_lim: Sequence[float],
        rot_lim: Sequence[float],
        rand_flip: bool,
        is_train: bool,
        fit_width: bool = False,
    ) -> None:
        self.final_dim = whole_numbers('final_dim', final_dim, 2)
        self.resize_lim = low_and_high('resize_lim', resize_lim, LEAST_SCALE, 1 / LEAST_SCALE)
        self.bot_pct_lim = low_and_high('bot_pct_lim', bot_pct_lim, 0, 1)
        self.rot_lim = low_and_high('rot_lim', rot_lim)
        self.rand_flip = switch('rand_flip', rand_flip)
        self.is_train = switch('is_train', is_train)
        self.fit_width = switch('fit_width', fit_width)

    def sample_augmentation(self, ori_shape: tuple[int, int]) -> ImageAugmentation:
        """A draw for one image of ``ori_shape`` (H, W); in test mode always the same one."""
        height, width = ori_shape
        final_height, final_width = self.final_dim
        resize = self._between(self.resize_lim)
        if self.fit_width:
            resize *= final_width / width
        size = int(width * resize), int(height * resize)
        bottom = self._between(self.bot_pct_lim)
        top = int((1 - bottom) * size[1]) - final_height
        spare = max(0, size[0] - final_width)
        left = int(np.random.uniform(0, spare) if self.is_train else spare / 2)
        flip = bool(self.is_train and self.rand_flip and np.random.choice([0, 1]))
        rotate = self._between(self.rot_lim) if self.is_train else 0.0
        return ImageAugmentation(resize, size, (left, top, left + final_width, top + final_height), flip, rotate)

    def _between(self, limits: Sequence[float]) -> float:
        low, high = limits
        return np.random.uniform(low, high) if self.is_train else float(np.mean(limits))

    def transform(self, results: dict) -> dict:
        """``results`` with augmented ``img`` and ``img_aug_matrix``."""
        for key in ('img', 'ori_shape'):
            if key not in results:
                raise KeyError(f'ImageAug3D needs {key!r}: put BEVLoadMultiViewImageFromFiles in front of it')
        images, matrices = [], []
        for image, (size, ori_shape) in zip(results['img'], own_sizes(results)):
            if image.ndim != 3 or image.shape[2] != 3:
                raise ValueError(f"ImageAug3D needs images of shape (H, W, 3), got {image.shape}: load them with color_type='color'")
            augmentation = self.sample_augmentation(ori_shape)
            images.append(augment_image(image[: size[0], : size[1]], augmentation))
            matrices.append(image_aug_matrix(augmentation))
        results.update(img=images, img_aug_matrix=matrices)
        return results

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(final_dim={self.final_dim}, resize_lim={self.resize_lim}, '
            f'bot_pct_lim={self.bot_pct_lim}, rot_lim={self.rot_lim}, rand_flip={self.rand_flip}, '
            f'is_train={self.is_train}, fit_width={self.fit_width})'
        )
