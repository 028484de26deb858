"""The operators of a computation that would make the host wait for a GPU, counted on a CPU."""

from __future__ import annotations

from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode

WAITS = {'nonzero', '_local_scalar_dense', '_unique2', 'unique_dim', 'unique_consecutive', 'bincount', 'masked_select'}
INDEXING = {'index', 'index_put', 'index_put_', '_index_put_impl_'}


class WaitsOfTheHost(TorchDispatchMode):
    """Collects their ``names`` in the order of the calls; what is indexed by a boolean mask waits for the number of hits."""

    def __init__(self):
        super().__init__()
        self.names = []
        to_list = torch.Tensor.tolist  # which no mode sees on a CPU
        self.lists = mock.patch.object(torch.Tensor, 'tolist', lambda tensor: self.names.append('tolist') or to_list(tensor))

    def __enter__(self):
        self.lists.start()
        return super().__enter__()

    def __exit__(self, *error):
        self.lists.stop()
        return super().__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.__name__.split('.')[0]
        indices = args[1] if name in INDEXING else ()
        if name in WAITS or any(index is not None and index.dtype == torch.bool for index in indices):
            self.names.append(name)
        return func(*args, **kwargs or {})
