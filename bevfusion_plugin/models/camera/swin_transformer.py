"""mmdet's Swin Transformer in fewer kernels.

Letters: B images, H x W feature map, C channels, S side of a window, V windows of an image.
"""

from __future__ import annotations

import inspect

import numpy as np
import torch
import torch.nn.functional as F
from mmcv.cnn.bricks import drop
from mmdet.models.backbones import swin
from torch import Tensor

from bevfusion_plugin.models.camera.swin_config import check_swin_config
from bevfusion_plugin.registry import MODELS


@MODELS.register_module()
class SwinTransformer(swin.SwinTransformer):
    """mmdet's ``SwinTransformer``, same arguments and parameters, and the same results but for the random draws of stochastic depth.

    Of the 696 kernels that mmdet's Swin-T launches with 704 x 256 images, 96 build the masks of shifted windows anew in every forward,
    and 115 are stochastic depth.

    Raises:
        ValueError: At construction, if a setting cannot work.
    """

    def __init__(self, *args, **kwargs) -> None:
        settings = inspect.signature(swin.SwinTransformer).bind(*args, **kwargs)
        settings.apply_defaults()
        check_swin_config(**settings.arguments)
        super().__init__(*args, **kwargs)
        for module in self.modules():
            module.__class__ = FEWER_KERNELS.get(type(module), type(module))


class DropPath(drop.DropPath):
    """mmcv's ``DropPath``, stochastic depth, with one product over the features instead of two.

    mmcv adds the probability to random numbers of the features' dtype and rounds down, which in bfloat16 keeps up to 0.4 % more paths.
    """

    def forward(self, x: Tensor) -> Tensor:
        """``x`` (B, ...), of which in training each sample is 0 with ``drop_prob`` and divided by 1 - ``drop_prob`` otherwise."""
        if not self.training or not self.drop_prob:
            return x
        kept = x.new_empty(len(x), *[1] * (x.dim() - 1)).bernoulli_(1 - self.drop_prob)
        return x * kept.div_(1 - self.drop_prob)


class ShiftedWindowAttention(swin.ShiftWindowMSA):
    """mmdet's ``ShiftWindowMSA`` that keeps the masks it has built."""

    def forward(self, query: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        """What the cells (B, H * W, C) of maps of the size ``hw_shape`` attend to in their windows, same shape."""
        (height, width), size, shift = hw_shape, self.window_size, self.shift_size
        maps = F.pad(query.unflatten(1, (height, width)), (0, 0, 0, -width % size, 0, -height % size))  # (B, H', W', C)
        padded = maps.shape[1:3]
        if shift:
            maps = maps.roll((-shift, -shift), (1, 2))
        windows = self.window_partition(maps).flatten(1, 2)  # (B * V, S * S, C)
        windows = self.w_msa(windows, mask=self._mask(padded[0], padded[1], query.device) if shift else None)
        maps = self.window_reverse(windows.unflatten(1, (size, size)), *padded)
        if shift:
            maps = maps.roll((shift, shift), (1, 2))
        return self.drop(maps[:, :height, :width].flatten(1, 2))

    def _mask(self, height: int, width: int, device: torch.device) -> Tensor:
        """(V, S * S, S * S): -100 between cells that only the shift brought into one window, else 0."""
        masks = self.__dict__.setdefault('_masks', {})
        key = height, width, device
        if key not in masks:
            with torch.inference_mode(False):  # or training after an inference could not use it
                masks[key] = shifted_window_mask(height, width, self.window_size, self.shift_size).to(device, non_blocking=True)
        return masks[key]


def shifted_window_mask(height: int, width: int, size: int, shift: int) -> Tensor:
    """Mask of the windows of a shifted map, see :class:`ShiftedWindowAttention`.

    Args:
        height: Of the map in cells, a multiple of ``size``.
        width: The same.
        size: Side S of a window.
        shift: Cells that the map was rolled by towards its origin.

    Source: Swin Transformer (arXiv 2103.14030), section 3.2, figure 4.
    """

    def region(length: int) -> np.ndarray:
        cell = np.arange(length)
        return (cell >= length - size).astype(int) + (cell >= length - shift)  # 0, 1 or 2

    regions = 3 * region(height)[:, None] + region(width)
    windows = regions.reshape(height // size, size, width // size, size).swapaxes(1, 2).reshape(-1, size * size)
    return torch.from_numpy(np.where(windows[:, None] == windows[:, :, None], 0, -100).astype(np.float32))


FEWER_KERNELS = {swin.ShiftWindowMSA: ShiftedWindowAttention, drop.DropPath: DropPath}
