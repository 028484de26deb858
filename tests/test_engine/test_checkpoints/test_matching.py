import torch

from bevfusion_plugin.engine.checkpoints.matching import unmatched_keys


def test_keys_the_model_lacks_are_named():
    assert unmatched_keys({'x': torch.zeros(1)}, {}) == ['x: not in the model']


def test_the_order_of_axes_does_not_count():
    assert unmatched_keys({'w': torch.zeros(3, 3, 3, 5, 16)}, {'w': torch.zeros(16, 3, 3, 3, 5)}) == []
