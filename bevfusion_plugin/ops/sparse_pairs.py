"""Which input site meets which output site at which offset of a sparse convolution's kernel.

Letters: V sites before, W sites after the convolution, K = kx * ky * kz kernel offsets in the order of the
flattened kernel (z fastest). A site is (sample, x, y, z). Pairs are a list of K entries, each the input rows
and the output rows that belong together, as two int64 vectors of one length.

Source: the two kinds of sparse convolution are those of Graham et al., "3D semantic segmentation with
submanifold sparse convolutional networks", CVPR 2018, section 3. Where the usual implementations fill a hash
table, sites are numbered along the grid here, and looked up by bisection: that is plain tensor code.
"""
from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

Pairs = list[tuple[Tensor, Tensor]]


def flatten_sites(sites: Tensor, shape: Sequence[int]) -> Tensor:
    """(V,) int64 number of each site (V, 4) along a grid of shape (X, Y, Z), samples one after the other."""
    keys = sites[:, 0].long()
    for axis, size in enumerate(shape, start=1):
        keys = keys * size + sites[:, axis]
    return keys


def subm_pairs(sites: Tensor, shape: Sequence[int], kernel_size: Sequence[int]) -> Pairs:
    """Pairs of a submanifold convolution, whose output sites are its input sites.

    Args:
        sites: (V, 4) int (sample, x, y, z).
        shape: (X, Y, Z).
        kernel_size: (kx, ky, kz), odd.

    Returns:
        The pairs of each kernel offset.
    """
    radius = [size // 2 for size in kernel_size]
    extent = [size + 2 * r for size, r in zip(shape, radius)]
    volume = kernel_size[0] * kernel_size[1] * kernel_size[2]
    lookup = _receptive_field(_shift(sites, radius), sites, extent, kernel_size)
    # A neighbour's neighbour on the other side is the site itself, so half of the offsets tell the others.
    first = list(itertools.islice(lookup, volume // 2))
    all_sites = torch.arange(len(sites), device=sites.device)
    return first + [(all_sites, all_sites)] + [(outputs, inputs) for inputs, outputs in reversed(first)]


def strided_pairs(sites: Tensor, shape: Sequence[int], kernel_size: Sequence[int], stride: Sequence[int],
                  padding: Sequence[int]) -> tuple[Tensor, tuple[int, ...], Pairs]:
    """Sites after a strided convolution, and its pairs.

    Args:
        sites: (V, 4) int (sample, x, y, z).
        shape: (X, Y, Z).
        kernel_size: (kx, ky, kz).
        stride: Step along each axis.
        padding: Zeros around the grid along each axis.

    Returns:
        The output sites (W, 4) in ascending order: those with at least one input site in their receptive
        field. The output shape. The pairs of each kernel offset.

    Raises:
        ValueError: If the kernel does not fit into the padded grid.
    """
    out_shape = tuple((size + 2 * p - k) // s + 1 for size, k, s, p in zip(shape, kernel_size, stride, padding))
    if min(out_shape) < 1:
        raise ValueError(f'a kernel {tuple(kernel_size)} with padding {tuple(padding)} does not fit into the grid '
                         f'{tuple(shape)}; enlarge sparse_shape or use fewer strided stages')
    extent = [size + 2 * p for size, p in zip(shape, padding)]
    shifted = _shift(sites, padding)
    out_sites = _reached_sites(shifted, out_shape, kernel_size, stride)
    corners = out_sites * out_sites.new_tensor([1, *stride])
    return out_sites, out_shape, list(_receptive_field(shifted, corners, extent, kernel_size))


def _shift(sites: Tensor, padding: Sequence[int]) -> Tensor:
    """Sites in a grid that is ``padding`` larger on every side: what reaches over the edge stays apart."""
    return sites + sites.new_tensor([0, *padding])


def _reached_sites(shifted: Tensor, out_shape: Sequence[int], kernel_size: Sequence[int],
                   stride: Sequence[int]) -> Tensor:
    """(W, 4) sites whose kernel reaches at least one input, ascending; one axis after the other."""
    candidates = shifted
    for axis, (size, k, s) in enumerate(zip(out_shape, kernel_size, stride), start=1):
        last = torch.div(candidates[:, axis], s, rounding_mode='floor')  # the last output that reaches the input
        found = []
        for back in range((k + s - 1) // s):
            reached = last - back
            valid = (reached >= 0) & (reached < size) & (candidates[:, axis] - s * reached < k)
            sites = candidates[valid]
            sites[:, axis] = reached[valid]
            found.append(sites)
        candidates = torch.cat(found)
    keys = flatten_sites(candidates, out_shape).unique()
    columns = []
    for size in reversed(out_shape):
        columns.append(keys % size)
        keys = torch.div(keys, size, rounding_mode='floor')
    return torch.stack([keys, *reversed(columns)], dim=1).to(shifted.dtype)


def _receptive_field(inputs: Tensor, corners: Tensor, extent: Sequence[int],
                     kernel_size: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs of each kernel offset in turn.

    Args:
        inputs: (V, 4) input sites in a grid of shape ``extent``.
        corners: (W, 4) lowest site in the receptive field of each output, in the same grid.
        extent: Shape of that grid.
        kernel_size: (kx, ky, kz).
    """
    keys, order = flatten_sites(inputs, extent).sort()
    keys = torch.cat([keys, keys.new_full((1,), torch.iinfo(torch.int64).max)])  # so that a search ends on a key
    base = flatten_sites(corners, extent)
    for x, y in itertools.product(range(kernel_size[0]), range(kernel_size[1])):
        wanted = base + (x * extent[1] + y) * extent[2]
        position = torch.searchsorted(keys, wanted)
        # Along z wanted keys follow one another, and so do the found ones: one search serves the whole column.
        for z in range(kernel_size[2]):
            hit = keys[position] == wanted + z
            outputs = hit.nonzero()[:, 0]
            yield order[position[outputs]], outputs
            position = position + hit
