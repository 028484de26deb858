"""A model that runs out of pretended GPU memory."""

from __future__ import annotations

from typing import Any

import torch
from toy_training import ToyModel


class HungryModel(ToyModel):
    """Fits micro-batches of at most ``most`` samples."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def forward(self, x: torch.Tensor, y: torch.Tensor, mode: str = 'loss') -> Any:
        """As :class:`ToyModel`.

        Raises:
            OutOfMemoryError: For a bigger micro-batch.
        """
        if len(x) > self.most:
            raise torch.cuda.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB.')
        return super().forward(x, y, mode)
