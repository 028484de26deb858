import pytest
import torch
from accumulating_ranks import UNEVEN, BranchedModel, branched_data, data, four_ranks, two_ranks
from gloo_ranks import run_ranks
from toy_training import ToyModel, layer_norm_net


@pytest.fixture(scope='module')
def ranks():
    return run_ranks(2, two_ranks)


@pytest.fixture(scope='module')
def four():
    return run_ranks(4, four_ranks)


def gradient(model, x, y):
    model.zero_grad()
    model(x, y)['loss_fit'].backward()
    return torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in model.parameters()])


def test_two_ranks_with_two_accumulated_equal_four_ranks(ranks, four):
    for window in range(2):
        expected = four[0]['grouping']['gradients'][window]
        for result in ranks:
            torch.testing.assert_close(result['grouping']['gradients'][window], expected, rtol=1e-12, atol=1e-14)
    assert ranks[0]['grouping']['updates'] == four[0]['grouping']['updates'] == 2


def test_ranks_synchronise_once_an_update(ranks):
    assert [result['rounds']['rounds'] for result in ranks] == [3, 3]  # 12 micro-batches in windows of 4, one bucket
    assert [result['rounds']['updates'] for result in ranks] == [3, 3]


def test_a_static_graph_costs_one_more_synchronisation_and_changes_nothing(ranks):
    for result in ranks:
        assert result['static']['rounds'] == 4 and result['static']['updates'] == 3
        for gradient_of_window, expected in zip(result['static']['gradients'], result['rounds']['gradients']):
            torch.testing.assert_close(gradient_of_window, expected, rtol=1e-12, atol=1e-14)


def test_find_unused_parameters_keeps_a_gradient_that_came_before_the_last_micro_batch(ranks):
    model = BranchedModel()
    mean = sum(gradient(model, x, y) for x, y in branched_data()) / 6
    assert mean[-4:].abs().min() > 0, 'the branch is to have a gradient'
    for result in ranks:
        torch.testing.assert_close(result['unused']['gradients'][0], mean, rtol=1e-12, atol=1e-14)


def test_samples_count_alike_across_ranks(ranks):
    big = gradient(ToyModel(layer_norm_net), *(torch.cat(part) for part in zip(*data([8, 8, 3, 5]))))
    for result in ranks:
        torch.testing.assert_close(result['uneven']['gradients'][0], big, rtol=1e-12, atol=1e-14)
        assert result['uneven']['rounds'] == 1


def test_samples_count_alike_across_four_ranks_of_which_one_has_a_single_sample(four):
    big = gradient(ToyModel(layer_norm_net), *(torch.cat(part) for part in zip(*data(UNEVEN))))
    for result in four:
        torch.testing.assert_close(result['uneven']['gradients'][0], big, rtol=1e-12, atol=1e-14)


def test_a_branch_that_one_of_four_ranks_reaches_counts_as_it_does_in_one_process(four):
    model, batches = BranchedModel(), (branched_data() * 2)[:8]
    mean = sum(gradient(model, x, y) for x, y in batches) / 8
    assert mean[-4:].abs().min() > 0, 'the branch is to have a gradient'
    for result in four:
        torch.testing.assert_close(result['unused']['gradients'][0], mean, rtol=1e-12, atol=1e-14)


def test_an_overflow_on_one_rank_skips_the_update_on_all(ranks):
    assert [(result['overflow']['updates'], result['overflow']['skipped']) for result in ranks] == [(1, 1), (1, 1)]


def test_a_nan_on_one_rank_stops_all_at_the_same_window(ranks):
    assert [result['nan']['skipped'] for result in ranks] == [2, 2]
    assert 'loss_fit=nan' in ranks[0]['nan']['error']
    assert 'or at another rank' in ranks[1]['nan']['error']


def test_sharded_models_are_refused_by_name(ranks):
    for result in ranks:
        assert 'does not work with FullyShardedDataParallel' in result['sharded']['error']
