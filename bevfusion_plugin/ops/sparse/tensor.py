"""Features on a few sites of a large grid.

Letters: B samples, X x Y x Z grid, V active sites, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


class SparseTensor:
    """Features of the active sites; everywhere else the value is zero.

    Attributes:
        features: (V, C).
        indices: (V, 4) int32 (sample, x, y, z), each site at most once.
        spatial_shape: (X, Y, Z).
        batch_size: B, known from outside: the last samples may have no site at all.
        cache: What has been found out about this set of sites (index pairs by kernel). Tensors on the same
            sites share it, so every convolution of a stage finds the pairs of the first one.
    """

    def __init__(self, features: Tensor, indices: Tensor, spatial_shape: Sequence[int], batch_size: int, cache: dict | None = None) -> None:
        self.features = features
        self.indices = indices
        self.spatial_shape = tuple(int(size) for size in spatial_shape)
        self.batch_size = batch_size
        self.cache = {} if cache is None else cache

    def check(self) -> SparseTensor:
        """This tensor, after its sites were found to lie inside the grid.

        Raises:
            ValueError: If shapes do not fit, or a site lies outside the batch or the grid.
        """
        if self.indices.shape != (len(self.features), 4):
            raise ValueError(
                f'expected indices ({len(self.features)}, 4) as (sample, x, y, z) for features '
                f'{tuple(self.features.shape)}, got {tuple(self.indices.shape)}'
            )
        limits = (self.batch_size, *self.spatial_shape)
        outside = (self.indices < 0) | (self.indices >= self.indices.new_tensor(limits))
        if outside.any():
            site = self.indices[outside.any(dim=1)][0].tolist()
            raise ValueError(
                f'the site (sample, x, y, z) = {site} lies outside the batch and grid {limits}; '
                'sparse_shape and the voxel coordinates must both be in the order x, y, z'
            )
        return self

    def replace_feature(self, features: Tensor) -> SparseTensor:
        """The same sites with other features (V, C')."""
        return SparseTensor(features, self.indices, self.spatial_shape, self.batch_size, self.cache)

    def dense(self) -> Tensor:
        """(B, C, X, Y, Z), zero where there is no site.

        In memory z comes before x and y, so folding z into the channels for a BEV map copies nothing.
        """
        x, y, z = self.spatial_shape
        grid = self.features.new_zeros(self.batch_size, self.features.shape[1], z, x, y)
        sample, i, j, k = self.indices.long().unbind(1)
        grid[sample, :, k, i, j] = self.features
        return grid.permute(0, 1, 3, 4, 2)
