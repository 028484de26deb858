"""A model and data that draw random numbers wherever a training can: initial weights, samples in workers, dropout."""

from __future__ import annotations

import numpy as np
import torch
from mmengine.model import BaseModel
from torch import Tensor, nn
from torch.utils.data import Dataset


class NoisyImages(Dataset):
    """Sixteen images whose noise numpy draws when they are loaded."""

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        image = index / 16 + np.random.standard_normal((3, 8, 8)).astype(np.float32)
        return dict(image=torch.from_numpy(image), target=torch.tensor([index / 16]))


class DrawingModel(BaseModel):
    """Convolution, BatchNorm, bilinear enlargement, dropout, a linear layer; squared error."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Upsample(scale_factor=2, mode='bilinear'), nn.Dropout(0.5)
        )
        self.head = nn.Linear(8, 1)

    def forward(self, image: Tensor, target: Tensor, mode: str = 'tensor') -> dict[str, Tensor]:
        return dict(loss=(self.head(self.features(image).mean((2, 3))) - target).square().mean())
