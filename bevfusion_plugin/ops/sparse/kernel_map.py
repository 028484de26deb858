"""Which input site meets which output site at which offset of a sparse convolution's kernel.

Letters: V sites before, W sites after the convolution, K = kx * ky * kz kernel offsets in the order of the
flattened kernel (z fastest). A site is (sample, x, y, z).

Nothing is compacted on the way: what meets nothing is marked by a row number just past the end, so that the host
waits for the device only where it must know how many sites a strided convolution leaves.

Source: the two kinds of sparse convolution are those of Graham et al., "3D semantic segmentation with
submanifold sparse convolutional networks", CVPR 2018, section 3; the name is that of Choy et al., "4D spatio-temporal
ConvNets", CVPR 2019. Where the usual implementations fill a hash table, sites are numbered along the grid here, sorted
and looked up by bisection: that is plain tensor code.
"""
from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

NO_SITE = torch.iinfo(torch.int64).max  # number of a site that is none; sorts behind all others


class KernelMap:
    """The meetings of a convolution, in the form that each way of multiplying takes.

    Args:
        found: (K, W) int64 input row that each output site meets at each offset, V where it meets none. Where ``subm``
            only those before the middle offset, (K // 2, V): the neighbour of a neighbour on the other side is the site
            itself, and at the middle every site meets itself.
        n_inputs: V.
        subm: Whether the output sites are the input sites, with a centred kernel.
    """

    def __init__(self, found: Tensor, n_inputs: int, subm: bool) -> None:
        self._found = found
        self.n_inputs = n_inputs
        self.n_outputs = found.shape[1]
        self.middle = len(found) if subm else None  # the offset at which every site meets itself

    @functools.cached_property
    def inputs_of_outputs(self) -> Tensor:
        """(W, K) int32 input row, V where there is none."""
        if self.middle is None:
            return self._found.t().int().contiguous()
        sites = torch.arange(self.n_inputs, device=self._found.device)
        # In the last column: what is none meets.
        mirrored = self._found.new_full((self.middle, self.n_inputs + 1), self.n_inputs)
        mirrored.scatter_(1, self._found.flip(0), sites.expand_as(self._found))
        return torch.cat([self._found, sites[None], mirrored[:, :-1]]).t().int().contiguous()

    @functools.cached_property
    def outputs_of_inputs(self) -> Tensor:
        """(V, K) int32 output row, W where there is none: what each input site contributes to."""
        inputs = self.inputs_of_outputs
        outputs = torch.arange(self.n_outputs, dtype=torch.int32, device=inputs.device)
        inverse = inputs.new_full((self.n_inputs + 1, inputs.shape[1]), self.n_outputs)  # in the last row: of none
        return inverse.scatter_(0, inputs.long(), outputs[:, None].expand_as(inputs))[:-1]

    @functools.cached_property
    def pairs(self) -> dict[int, tuple[Tensor, Tensor]]:
        """For each offset but the middle one the input rows and the output rows that meet, two int64 vectors of one
        length; offsets without a meeting are left out."""
        meets = self._found < self.n_inputs
        counts = meets.sum(dim=1, dtype=torch.int32).tolist()
        place = meets.flatten().nonzero()[:, 0]
        inputs, outputs = self._found.flatten().index_select(0, place), place % max(self.n_outputs, 1)
        pairs = {offset: rows for offset, rows in enumerate(zip(inputs.split(counts), outputs.split(counts))) if counts[offset]}
        if self.middle is not None:
            pairs.update({2 * self.middle - offset: (there, here) for offset, (here, there) in pairs.items()})
        return pairs


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


def subm_map(sites: Tensor, shape: Sequence[int], kernel_size: Sequence[int]) -> KernelMap:
    """Meetings of a submanifold convolution, whose output sites are its input sites.

    Args:
        sites: (V, 4) int (sample, x, y, z).
        shape: (X, Y, Z).
        kernel_size: (kx, ky, kz), odd.
    """
    return KernelMap(_first_neighbours(sites, shape, kernel_size), len(sites), subm=True)


def strided_map(sites: Tensor, shape: Sequence[int], kernel_size: Sequence[int], stride: Sequence[int],
                padding: Sequence[int]) -> tuple[Tensor, tuple[int, ...], KernelMap]:
    """Sites after a strided convolution, and its meetings.

    Args:
        sites: (V, 4) int (sample, x, y, z).
        shape: (X, Y, Z).
        kernel_size: (kx, ky, kz).
        stride: Step along each axis.
        padding: Zeros around the grid along each axis.

    Returns:
        The output sites (W, 4) int32 in ascending order: those with at least one input site in their receptive
        field. The output shape. The meetings.

    Raises:
        ValueError: If the kernel does not fit into the padded grid.
    """
    out_shape = tuple((size + 2 * p - k) // s + 1 for size, k, s, p in zip(shape, kernel_size, stride, padding))
    if min(out_shape) < 1:
        raise ValueError(f'a kernel {tuple(kernel_size)} with padding {tuple(padding)} does not fit into the grid '
                         f'{tuple(shape)}; enlarge sparse_shape or use fewer strided stages')
    reached, offsets = _reached_sites(sites, out_shape, kernel_size, stride, padding)
    keys, outputs = _unique_sites(reached.flatten())
    n_inputs, n_outputs, n_offsets = len(sites), len(keys), math.prod(kernel_size)
    inputs = torch.arange(n_inputs, device=sites.device)[:, None].expand_as(reached)
    table = inputs.new_full((n_offsets, n_outputs + 1), n_inputs)  # in the last column: of the site that is none
    table.view(-1).scatter_(0, offsets.flatten() * (n_outputs + 1) + outputs, inputs.flatten())
    return unflatten_sites(keys, out_shape), out_shape, KernelMap(table[:, :n_outputs], n_inputs, subm=False)


def _first_neighbours(sites: Tensor, shape: Sequence[int], kernel_size: Sequence[int]) -> Tensor:
    """(K // 2, V) row of the neighbour of each site at the offsets before the middle one of a centred kernel, V where
    there is none."""
    _, k_y, k_z = kernel_size
    n_offsets = math.prod(kernel_size) // 2
    # In a grid with a margin, no neighbour of one row is the beginning of the next.
    extent = [size + 2 * (k // 2) for size, k in zip(shape, kernel_size)]
    corner = flatten_sites(sites, extent)  # in its numbers: the corner of the kernel around each site
    middle = (kernel_size[0] // 2 * extent[1] + k_y // 2) * extent[2] + k_z // 2
    keys, order = (corner + middle).sort()
    keys, order = (torch.cat([known, known.new_full((1, ), last)])  # a search always ends on a key
                   for known, last in ((keys, NO_SITE), (order, len(sites))))
    column = torch.arange(-(-n_offsets // k_z), device=sites.device)[:, None]
    wanted = corner + (column // k_y * extent[1] + column % k_y) * extent[2]
    position = torch.searchsorted(keys, wanted)
    # Along z the wanted keys follow one another, and so do the found ones: one search serves the column.
    rows = []
    for z in range(k_z):
        hit = keys[position] == wanted + z
        rows.append(torch.where(hit, order[position], len(sites)))
        position = position + hit
    return torch.stack(rows, dim=1).flatten(0, 1)[:n_offsets]


def _reached_sites(sites: Tensor, out_shape: Sequence[int], kernel_size: Sequence[int], stride: Sequence[int],
                   padding: Sequence[int]) -> tuple[Tensor, Tensor]:
    """For each site the output sites that may have it in their receptive field: their numbers (V, R), ``NO_SITE`` where
    they do not, and the kernel offset of the meeting, (V, R)."""
    keys = sites[:, :1].long()  # (V, 1), then one axis after the other
    offsets, inside = torch.zeros_like(sites[:, :1]), torch.ones_like(keys, dtype=torch.bool)
    for axis, (size, k, s, p) in enumerate(zip(out_shape, kernel_size, stride, padding), start=1):
        coordinate = sites[:, axis, None] + p
        cell = coordinate // s - torch.arange(math.ceil(k / s), dtype=sites.dtype, device=sites.device)
        place = coordinate - s * cell  # in the kernel
        fits = (cell >= 0) & (cell < size) & (place < k)
        keys = (keys[:, :, None] * size + cell[:, None]).flatten(1)
        offsets = (offsets[:, :, None] * k + place[:, None]).flatten(1)
        inside = (inside[:, :, None] & fits[:, None]).flatten(1)
    return torch.where(inside, keys, NO_SITE), torch.where(inside, offsets, 0)


def _unique_sites(reached: Tensor) -> tuple[Tensor, Tensor]:
    """The numbers that occur, ascending (W,), and for each of ``reached`` its place among them, W for ``NO_SITE``.

    ``Tensor.unique`` would be told of ``NO_SITE`` only after the host has waited for it.
    """
    keys, order = reached.sort()
    is_new = torch.ones_like(keys, dtype=torch.bool)
    is_new[1:] = keys[1:] != keys[:-1]
    place = is_new.cumsum(0) - 1
    n_sites = int((is_new & (keys < NO_SITE)).sum())  # the host waits here
    unique = keys.new_empty(n_sites + 1).scatter_(0, place, keys)[:n_sites]
    return unique, torch.empty_like(place).scatter_(0, order, place)
