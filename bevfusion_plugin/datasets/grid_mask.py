"""GridMask: blacks out a grid of stripes in the camera images.

Letters: h x w image; d stripe period in pixels, ``length`` stripe width.
"""

from __future__ import annotations

import numpy as np
from mmcv.transforms import BaseTransform
from PIL import Image

from bevfusion_plugin.plan.checked_settings import checked_share, positive, positive_int, switch, whole_number
from bevfusion_plugin.registry import TRANSFORMS


def stripes(size: int, d: int, start: int, length: int) -> np.ndarray:
    """Boolean (size,), true in the first ``size // d`` stripes [start + i d, start + i d + length).

    A stripe that would only partly fit behind the last whole period is left out.
    """
    position = np.arange(size) - start
    return (position >= 0) & (position % d < length) & (position // d < size // d)


def grid_mask(height: int, width: int, rows: np.ndarray, columns: np.ndarray, rotate: int) -> np.ndarray:
    """(height, width) float32: 0 on the stripes, 1 between them.

    Args:
        height: Of the image.
        width: Of the image.
        rows: Stripes along the rows, boolean and 1.5 times as long as the image is high, so that the turned grid
            still covers the image.
        columns: Stripes along the columns, 1.5 times as long as the image is wide.
        rotate: Degrees counter-clockwise about the middle. What comes in from outside counts as stripe.
    """
    free = ~(rows[:, None] | columns[None, :])
    turned = np.asarray(Image.fromarray(free.astype(np.uint8)).rotate(rotate))
    top, left = (len(rows) - height) // 2, (len(columns) - width) // 2
    return turned[top : top + height, left : left + width].astype(np.float32)


@TRANSFORMS.register_module()
class GridMask(BaseTransform):
    """Multiplies all images of a frame by one random grid mask.

    Reads ``img``, a list of (h, w, C) arrays of one size, and replaces it by float32 arrays. Draws from numpy's
    global state: whether, period, stripe width (only if ``ratio`` is 1), the two starts, the angle, the noise.

    Args:
        use_h: Stripes across the height.
        use_w: Stripes across the width.
        max_epoch: The epoch at which ``prob`` is reached, unless ``fixed_prob``.
        rotate: Upper limit (exclusive) of the whole-degree rotation; 1 means none.
        offset: Fill the masked pixels with noise in [-1, 1), the same for all channels and images, instead of 0.
        ratio: Stripe width over period; 1 draws the width.
        mode: 1 keeps the stripes and blacks out the rest, 0 the other way round.
        prob: Share of frames that get a mask. 0 still draws one random number.
        fixed_prob: Keep ``prob`` as it is; otherwise :meth:`set_epoch` makes it grow.

    Raises:
        ValueError: An argument cannot be.
        KeyError: ``img`` is missing.

    Source:
        "GridMask Data Augmentation" (arXiv:2001.04086); mmdetection3d 1.4.0 ``projects/BEVFusion``: same draws and
        results, and ``offset=True`` works (the reference raises TypeError).
    """

    def __init__(
        self,
        use_h: bool,
        use_w: bool,
        max_epoch: int,
        rotate: int = 1,
        offset: bool = False,
        ratio: float = 0.5,
        mode: int = 0,
        prob: float = 1.0,
        fixed_prob: bool = False,
    ) -> None:
        self.use_h = switch('use_h', use_h)
        self.use_w = switch('use_w', use_w)
        self.max_epoch = positive_int('max_epoch', max_epoch)
        self.rotate = positive_int('rotate', rotate, '1 means none')
        self.offset = switch('offset', offset)
        self.ratio = positive('ratio', checked_share('ratio', ratio))
        self.mode = whole_number('mode', mode, 0, 1)
        self.st_prob = checked_share('prob', prob)
        self.prob = prob
        self.fixed_prob = switch('fixed_prob', fixed_prob)

    def set_epoch(self, epoch: int) -> None:
        """Sets ``prob`` to its share ``epoch / max_epoch``, unless ``fixed_prob``; nothing calls this by itself."""
        if not self.fixed_prob:
            self.prob = self.st_prob * epoch / self.max_epoch

    def sample_mask(self, height: int, width: int) -> np.ndarray:
        """A (height, width) float32 mask: 0 where the image is blacked out."""
        tall, wide = int(1.5 * height), int(1.5 * width)
        d = np.random.randint(2, min(height, width))
        length = np.random.randint(1, d) if self.ratio == 1 else min(max(int(d * self.ratio + 0.5), 1), d - 1)
        row_start, column_start = np.random.randint(d), np.random.randint(d)
        rows = stripes(tall, d, row_start, length) & self.use_h
        columns = stripes(wide, d, column_start, length) & self.use_w
        mask = grid_mask(height, width, rows, columns, np.random.randint(self.rotate))
        return 1 - mask if self.mode == 1 else mask

    def transform(self, results: dict) -> dict:
        """``results``, with masked images in a share ``prob`` of the calls."""
        if 'img' not in results:
            raise KeyError("GridMask needs 'img': put BEVLoadMultiViewImageFromFiles in front of it")
        if np.random.rand() > self.prob:
            return results
        height, width = results['img'][0].shape[:2]
        mask = self.sample_mask(height, width)[..., None]
        images = [image * mask for image in results['img']]
        if self.offset:
            noise = (2 * np.random.rand(height, width, 1) - 1).astype(np.float32) * (1 - mask)
            images = [image + noise for image in images]
        results['img'] = images
        return results

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(use_h={self.use_h}, use_w={self.use_w}, max_epoch={self.max_epoch}, '
            f'rotate={self.rotate}, offset={self.offset}, ratio={self.ratio}, mode={self.mode}, prob={self.prob}, '
            f'fixed_prob={self.fixed_prob})'
        )
