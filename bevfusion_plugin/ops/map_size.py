"""How many cells a map has: the one place that the networks' sizes are worked out in.

A convolution of kernel 3, stride 2 and padding 1 makes ceil(n / 2) of n cells, so that three of them make ceil(n / 8).
"""

from __future__ import annotations


def strided_cells(cells: int, kernel: int, stride: int, padding: int) -> int:
    """Cells along one axis behind a convolution; 0 if the kernel does not fit in.

    Source: torch.nn.Conv3d's documentation, with dilation 1.
    """
    return max(0, (cells + 2 * padding - kernel) // stride + 1)


def cells_after_strides(cells: int, factor: int) -> int:
    """Cells along one axis of a map that is ``factor`` times as coarse, behind padded convolutions: what is left over makes one more."""
    return -(-int(cells) // int(factor))
