import torch

from bevfusion_plugin.engine.accumulation.gradients import total_norm


def test_the_norm_is_that_of_all_elements_together():
    gradients = [torch.tensor([3.0]), torch.tensor([[0.0, 4.0], [12.0, 0.0]])]
    assert total_norm(gradients).item() == 13


def test_no_gradients_have_norm_zero():
    assert total_norm([]).item() == 0
