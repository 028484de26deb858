import pytest
import torch
from mmengine.optim import OptimWrapper
from mmengine.optim.scheduler import CosineAnnealingLR, LinearMomentum
from torch import nn

from bevfusion_plugin import OneCycleParamScheduler
from bevfusion_plugin.engine.schedules.span import span_of


@pytest.fixture
def wrapper():
    return OptimWrapper(torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1, momentum=0.9))


def test_what_a_scheduler_counts_becomes_updates(wrapper):
    # 5 micro-batches an epoch, two a window: 3 updates an epoch if none straddles its end
    epochs = CosineAnnealingLR(wrapper, T_max=2, begin=1, end=3, by_epoch=True)
    assert str(span_of(epochs, 2, 5, 'epoch')) == 'CosineAnnealingLR (lr): updates 3 to 9, counts epochs'
    batches = LinearMomentum(wrapper, begin=0, end=10, by_epoch=False)
    assert str(span_of(batches, 2, 5, 'train')) == 'LinearMomentum (momentum): updates 0 to 5, counts micro-batches'
    updates = OneCycleParamScheduler(wrapper, end=7, by_epoch=False)
    assert str(span_of(updates, 2, 5, 'epoch')) == 'OneCycleParamScheduler (lr): updates 0 to 7, counts updates'


def test_a_scheduler_without_an_end_lasts_to_the_end(wrapper):
    span = span_of(CosineAnnealingLR(wrapper, T_max=4, by_epoch=False), 1, 5, 'train')
    assert span.end == float('inf') and str(span).endswith('updates 0 to end, counts micro-batches')
