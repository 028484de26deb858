"""The TransFusion head trained by ranks of which some, or all, have no ground truth in a micro-batch."""

# No `from __future__ import annotations`: DistributedDataParallel checks the annotations of a communication hook.
import torch
from accumulating_ranks import Trained, share
from goldens import load_golden
from recorded_heads import METAS, build, no_gt, recorded_gt
from torch import Tensor, nn

MICRO_BATCHES = 8  # of all ranks
WITHOUT = (1, 2, 3, 6)  # those without ground truth: with 2 ranks all of rank 1's first window, with 4 three ranks of the first


class HeadModel(nn.Module):
    """The head of a recorded case in float64, without dropout; a micro-batch is features and the number that says what is in it."""

    def __init__(self) -> None:
        super().__init__()
        golden = load_golden('head_nuscenes')
        self.head = build()
        self.head.load_state_dict(golden.group('sd/'))
        self.head.double()
        for module in self.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
            if isinstance(module, nn.MultiheadAttention):
                module.dropout = 0.0
        self.gt = recorded_gt(golden)

    def forward(self, x: Tensor, number: int, mode: str = 'loss') -> dict[str, Tensor]:
        gt = [no_gt()] * len(self.gt) if number in WITHOUT else self.gt
        losses = self.head.loss_by_feat(self.head(x, METAS), gt)
        return dict(loss_fit=sum(value for name, value in losses.items() if 'loss' in name))


def micro_batches() -> list[tuple[Tensor, int]]:
    """Seeded features, the same on every rank."""
    generator = torch.Generator().manual_seed(5)
    x = load_golden('head_nuscenes')['in/x'].double()
    return [(x + 0.1 * torch.randn(x.shape, generator=generator, dtype=torch.float64), number) for number in range(MICRO_BATCHES)]


def train_head(rank: int, world_size: int) -> dict:
    """Gradients of two windows with 2 ranks, of one with 4: of 4 and 8 micro-batches."""
    return Trained(HeadModel(), accumulative_counts=2).run(share(micro_batches(), rank, world_size))
