"""What two ranks log of their losses."""

from __future__ import annotations

import torch

from bevfusion_plugin.engine.hooks.runtime_info_hook import RuntimeInfoHook


def two_ranks(rank: int, world_size: int) -> list[dict[str, float]]:
    """The means of two windows; only rank 1's first has ``loss_rare``."""
    hook = RuntimeInfoHook()
    first = [dict(loss=torch.tensor(1.0 + rank)), dict(loss=torch.tensor(3.0 + rank))]
    if rank == 1:
        first[1]['loss_rare'] = torch.tensor(7.0)
    return [hook._means(first), hook._means([dict(loss=torch.tensor(5.0))])]
