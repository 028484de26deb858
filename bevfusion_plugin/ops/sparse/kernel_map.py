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


class KernelMap:
    """The meetings of a convolution, in the form that each way of multiplying takes.

    Args:
        found: (K, W) int32 input row that each output site meets at each offset, V where it meets none. Where ``subm``
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
            return self._found.t().contiguous()
        sites = torch.arange(self.n_inputs, dtype=torch.int32, device=self._found.device)
        # In the last column: what is none meets.
        mirrored = self._found.new_full((self.middle, self.n_inputs + 1), self.n_inputs)
        mirrored.scatter_(1, self._found.flip(0).long(), sites.expand_as(self._found))
        return torch.cat([self._found, sites[None], mirrored[:, :-1]]).t().contiguous()

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
        inputs, outputs = self._found.flatten()[place].long(), place % max(self.n_outputs, 1)
        pairs = {offset: rows for offset, rows in enumerate(zip(inputs.split(counts), outputs.split(counts))) if counts[offset]}
        if self.middle is not None:
            pairs.update({2 * self.middle - offset: (there, here) for offset, (here, there) in pairs.items()})
        return pairs


def subm_map(sites: Tensor, batch_size: int, shape: Sequence[int], kernel_size: Sequence[int]) -> KernelMap:
    """Meetings of a submanifold convolution, whose output sites are its input sites.

    Args:
        sites: (V, 4) int32 (sample, x, y, z).
        batch_size: B.
        shape: (X, Y, Z).
        kernel_size: (kx, ky, kz), odd.
    """
    _, k_y, k_z = kernel_size
    n_sites, n_offsets = len(sites), math.prod(kernel_size) // 2
    # In a grid with a margin, no neighbour of one row is the beginning of the next.
    extent = [size + 2 * (k // 2) for size, k in zip(shape, kernel_size)]
    dtype, none = number_type(batch_size, extent)
    corner = flatten_sites(sites, extent, dtype)  # in its numbers: the corner of the kernel around each site
    middle = (kernel_size[0] // 2 * extent[1] + k_y // 2) * extent[2] + k_z // 2
    keys, order = (corner + middle).sort()
    keys = torch.cat([keys, keys.new_full((1,), none)])  # a search always ends on a key
    order = torch.cat([order.int(), sites.new_full((1,), n_sites)])
    column = torch.arange(-(-n_offsets // k_z), dtype=dtype, device=sites.device)[:, None]
    wanted = corner + (column // k_y * extent[1] + column % k_y) * extent[2]
    position = torch.searchsorted(keys, wanted)
    # Along z the wanted keys follow one another, and so do the found ones: one search serves the column.
    found = []
    for z in range(k_z):
        hit = keys[position] == wanted + z
        found.append(torch.where(hit, order[position], n_sites))
        position = position + hit
    return KernelMap(torch.stack(found, dim=1).flatten(0, 1)[:n_offsets], n_sites, subm=True)


def strided_map(
    sites: Tensor, batch_size: int, shape: Sequence[int], kernel_size: Sequence[int], stride: Sequence[int], padding: Sequence[int]
) -> tuple[Tensor, tuple[int, ...], KernelMap]:
    """Sites after a strided convolution, and its meetings.

    Args:
        sites: (V, 4) int32 (sample, x, y, z).
        batch_size: B.
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
        raise ValueError(
            f'a kernel {tuple(kernel_size)} with padding {tuple(padding)} does not fit into the grid '
            f'{tuple(shape)}; enlarge sparse_shape or use fewer strided stages'
        )
    dtype, none = number_type(batch_size, out_shape)
    reached, offsets, inside = _reached_sites(sites, dtype, out_shape, kernel_size, stride, padding)
    keys, outputs = _unique_numbers(torch.where(inside, reached, none).flatten(), none)
    n_inputs, n_outputs, n_offsets = len(sites), len(keys), math.prod(kernel_size)
    inputs = torch.arange(n_inputs, dtype=torch.int32, device=sites.device)[:, None].expand_as(reached)
    table = inputs.new_full((n_offsets, n_outputs + 1), n_inputs)  # in the last column: of the site that is none
    place = torch.where(inside, offsets, 0).flatten() * (n_outputs + 1) + outputs
    table.view(-1).scatter_(0, place, inputs.flatten())
    return unflatten_sites(keys, out_shape), out_shape, KernelMap(table[:, :-1], n_inputs, subm=False)


def number_type(batch_size: int, shape: Sequence[int]) -> tuple[torch.dtype, int]:
    """The type that numbers the sites of B grids of shape (X, Y, Z), int32 where it can, which is sorted and searched
    faster, and the number of a site that is none, behind all others."""
    dtype = torch.int32 if batch_size * math.prod(shape) <= torch.iinfo(torch.int32).max else torch.int64
    return dtype, torch.iinfo(dtype).max


def flatten_sites(sites: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """(V,) number of each site (V, 4) along a grid of shape (X, Y, Z), samples one after the other."""
    numbers = sites[:, 0].to(dtype)
    for axis, size in enumerate(shape, start=1):
        numbers = numbers * size + sites[:, axis]
    return numbers


def unflatten_sites(numbers: Tensor, shape: Sequence[int]) -> Tensor:
    """(V, 4) int32 sites from their numbers, the inverse of ``flatten_sites``."""
    columns = []
    for size in reversed(shape):
        columns.append(numbers % size)
        numbers = numbers // size
    return torch.stack([numbers, *reversed(columns)], dim=1).int()


def _reached_sites(
    sites: Tensor, dtype: torch.dtype, out_shape: Sequence[int], kernel_size: Sequence[int], stride: Sequence[int], padding: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """For each site R output sites that may have it in their receptive field: their numbers, the kernel offset of the
    meeting, and whether they do; (V, R) each."""
    numbers = sites[:, :1].to(dtype)  # (V, 1), then one axis after the other
    offsets, inside = torch.zeros_like(sites[:, :1]), torch.ones_like(numbers, dtype=torch.bool)
    for axis, (size, k, s, p) in enumerate(zip(out_shape, kernel_size, stride, padding), start=1):
        coordinate = sites[:, axis, None] + p
        cell = coordinate // s - torch.arange(math.ceil(k / s), dtype=sites.dtype, device=sites.device)
        place = coordinate - s * cell  # in the kernel
        fits = (cell >= 0) & (cell < size) & (place < k)
        numbers = (numbers[:, :, None] * size + cell[:, None]).flatten(1)
        offsets = (offsets[:, :, None] * k + place[:, None]).flatten(1)
        inside = (inside[:, :, None] & fits[:, None]).flatten(1)
    return numbers, offsets, inside


def _unique_numbers(numbers: Tensor, none: int) -> tuple[Tensor, Tensor]:
    """Those that occur, ascending (W,), and for each of ``numbers`` its place among them, W for ``none``.

    ``Tensor.unique`` makes the host wait, and would leave it to wait once more to learn whether there is a ``none``.
    """
    numbers, order = numbers.sort()
    is_new = torch.ones_like(numbers, dtype=torch.bool)
    is_new[1:] = numbers[1:] != numbers[:-1]
    place = is_new.cumsum(0) - 1
    n_unique = int((is_new & (numbers < none)).sum())  # the host waits here
    unique = numbers.new_empty(n_unique + 1).scatter_(0, place, numbers)[:-1]
    return unique, torch.empty_like(place).scatter_(0, order, place)
