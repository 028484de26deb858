import torch
from torch import nn

from bevfusion_plugin.engine.accumulation.gradients import average_over_ranks, total_norm


def test_the_norm_is_that_of_all_elements_together():
    gradients = [torch.tensor([3.]), torch.tensor([[0., 4.], [12., 0.]])]
    assert total_norm(gradients).item() == 13


def test_no_gradients_have_norm_zero():
    assert total_norm([]).item() == 0


def test_alone_a_rank_keeps_its_gradients_as_they_are():
    parameters = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))]
    parameters[0].grad = torch.tensor([1., 2.])
    average_over_ranks(parameters)
    assert parameters[0].grad.tolist() == [1, 2] and parameters[1].grad is None
    average_over_ranks([])
