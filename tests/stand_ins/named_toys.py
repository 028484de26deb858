"""A model and a data set that a config can name and that cost nothing: for tools that build what a config names."""

from mmengine.dataset import BaseDataset
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, MODELS
from torch import nn


@MODELS.register_module(force=True)
class NamedToy(BaseModel):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def forward(self, inputs, mode='tensor'):
        return dict(loss=self.layer(inputs).mean())


@DATASETS.register_module(force=True)
class NamedToyData(BaseDataset):
    pass
