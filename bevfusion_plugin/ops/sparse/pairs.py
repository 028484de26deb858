"""Which input site meets which output site at which offset of a sparse convolution's kernel.

Letters: V sites before, W sites after the convolution, K = kx * ky * kz kernel offsets in the order of the
flattened kernel (z fastest). A site is (sample, x, y, z). Pairs are a list of K entries, each the input rows
and the output rows that belong together, as two int64 vectors of one length.

Source: the two kinds of sparse convolution are those of Graham et al., "3D semantic segmentation with
submanifold sparse convolutional networks", CVPR 2018, section 3. Where the usual implementations fill a hash
table, sites are numbered along the grid here, sorted and looked up by bisection: that is plain tensor code.
"""
from __future__ import annotations

import itertools
import math
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


def unflatten_sites(keys: Tensor, shape: Sequence[int]) -> Tensor:
    """(V, 4) int32 sites from their numbers, the inverse of ``flatten_sites``."""
    columns = []
    for size in reversed(shape):
        columns.append(keys % size)
        keys = keys // size
    return torch.stack([keys, *reversed(columns)], dim=1).int()


def subm_pairs(sites: Tensor, shape: Sequence[int], kernel_size: Sequence[int]) -> Pairs:
    """Pairs of a submanifold convolution, whose output sites are its input sites.

    Args:
        sites: (V, 4) int (sample, x, y, z).
        shape: (X, Y, Z).
        kernel_size: (kx, ky, kz), odd.

    Returns:
        The pairs of each kernel offset.
    """
    # A neighbour's neighbour on the other side is the site itself, so half of the offsets tell the others.
    first = list(itertools.islice(_neighbours(sites, shape, kernel_size), math.prod(kernel_size) // 2))
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
        The output sites (W, 4) int32 in ascending order: those with at least one input site in their receptive
        field. The output shape. The pairs of each kernel offset.

    Raises:
        ValueError: If the kernel does not fit into the padded grid.
    """
    out_shape = tuple((size + 2 * p - k) // s + 1 for size, k, s, p in zip(shape, kernel_size, stride, padding))
    if min(out_shape) < 1:
        raise ValueError(f'a kernel {tuple(kernel_size)} with padding {tuple(padding)} does not fit into the grid '
                         f'{tuple(shape)}; enlarge sparse_shape or use fewer strided stages')
    inputs, reached = torch.arange(len(sites), device=sites.device), sites.long()
    offsets = torch.zeros_like(inputs)
    # One axis after the other, every input coordinate becomes that of each output whose kernel covers it.
    for axis, (size, k, s, p) in enumerate(zip(out_shape, kernel_size, stride, padding), start=1):
        found = []
        for back in range(math.ceil(k / s)):
            cell = (reached[:, axis] + p) // s - back
            place = reached[:, axis] + p - s * cell  # in the kernel
            valid = ((cell >= 0) & (cell < size) & (place < k)).nonzero()[:, 0]
            moved = reached[valid]
            moved[:, axis] = cell[valid]
            found.append((inputs[valid], moved, offsets[valid] * k + place[valid]))
        inputs, reached, offsets = (torch.cat(parts) for parts in zip(*found))
    keys, outputs = flatten_sites(reached, out_shape).unique(return_inverse=True)
    order = (offsets * len(keys) + outputs).argsort()  # by offset, and for each by output: writes go forward
    counts = offsets.bincount(minlength=math.prod(kernel_size)).tolist()
    pairs = list(zip(inputs[order].split(counts), outputs[order].split(counts)))
    return unflatten_sites(keys, out_shape), out_shape, pairs


def _neighbours(sites: Tensor, shape: Sequence[int], kernel_size: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
    """For each offset of a centred kernel in turn the rows of the neighbours found there, and of their sites."""
    # In a grid with a margin, no neighbour of one row is the beginning of the next.
    extent = [size + 2 * (k // 2) for size, k in zip(shape, kernel_size)]
    lowest = flatten_sites(sites, extent)  # in its numbers: the corner of the kernel around each site
    centre = flatten_sites(lowest.new_tensor([[0, *(k // 2 for k in kernel_size)]]), extent)
    keys, order = (lowest + centre).sort()
    keys = torch.cat([keys, keys.new_full((1, ), torch.iinfo(torch.int64).max)])  # a search always ends on a key
    for x, y in itertools.product(range(kernel_size[0]), range(kernel_size[1])):
        wanted = lowest + (x * extent[1] + y) * extent[2]
        position = torch.searchsorted(keys, wanted)
        # Along z the wanted keys follow one another, and so do the found ones: one search serves the column.
        for z in range(kernel_size[2]):
            hit = keys[position] == wanted + z
            outputs = hit.nonzero()[:, 0]
            yield order[position[outputs]], outputs
            position = position + hit
