"""Ranks without ground truth beside ranks that have some: nobody waits for ever, and each micro-batch counts the same."""

import copy

import torch
from gloo_ranks import run_ranks
from head_ranks import WITHOUT, HeadModel, micro_batches, train_head


def test_ranks_without_ground_truth_give_the_gradient_of_one_process():
    torch.set_num_threads(1)
    ranks = run_ranks(2, train_head)
    model, gradients = HeadModel(), []
    for x, number in micro_batches()[:4]:  # the first update; the second one starts from other weights
        alone = copy.deepcopy(model)
        alone(x, number)['loss_fit'].backward()
        gradients.append(torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in alone.parameters()]))
    assert {1, 3} <= set(WITHOUT), 'rank 1 is to have none in the whole window'
    assert all(gradient.abs().max() > 1e-3 for gradient in gradients)
    for result in ranks:
        assert result['updates'] == 2
        torch.testing.assert_close(result['gradients'][0], sum(gradients) / 4, rtol=1e-10, atol=1e-13)
