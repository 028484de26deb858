import pytest
import torch
from torch import nn

from bevfusion_plugin.engine.accumulation.batch_norm import StatisticsAtStart, correct_bn_momentum, corrected_momentum, spoiled_statistics


@pytest.mark.parametrize(
    'momentum, counts, expected', [(0.01, 2, 0.00501256), (0.01, 4, 0.00250943), (0.1, 2, 0.0513167), (0.1, 4, 0.0259963), (0.1, 1, 0.1)]
)
def test_the_corrected_momentum_of_the_reference_numbers(momentum, counts, expected):
    assert corrected_momentum(momentum, counts) == pytest.approx(expected, rel=2e-6)


@pytest.mark.parametrize('counts', [2, 3, 8])
def test_equal_micro_batches_move_the_running_mean_as_one_update_does(counts):
    x = torch.randn(6, 4, dtype=torch.float64)
    once, often = (nn.BatchNorm1d(4, momentum=0.1).double() for _ in range(2))
    correct_bn_momentum(often, counts)
    once(x)
    for _ in range(counts):
        often(x)
    torch.testing.assert_close(often.running_mean, once.running_mean, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(often.running_var, once.running_var, rtol=1e-12, atol=1e-15)


def test_correcting_again_starts_from_the_momentum_the_layer_was_built_with():
    layer = nn.BatchNorm2d(3, momentum=0.01)
    for counts in (4, 4, 2):
        assert correct_bn_momentum(layer, counts) == 1
    assert layer.momentum == corrected_momentum(0.01, 2)


def test_layers_without_moving_statistics_are_left_alone():
    model = nn.Sequential(
        nn.BatchNorm1d(3, momentum=None), nn.BatchNorm1d(3, track_running_stats=False), nn.LayerNorm(3), nn.SyncBatchNorm(3)
    )
    assert correct_bn_momentum(model, 2) == 1
    assert model[0].momentum is None and model[1].momentum == 0.1 and model[3].momentum < 0.1


def test_statistics_that_are_no_numbers_are_named():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.BatchNorm1d(2))
    assert spoiled_statistics(model) == [] == spoiled_statistics(None)
    model[2].running_var[1] = float('inf')
    assert spoiled_statistics(model) == ['2.running_var']


def test_statistics_come_back_until_they_are_forgotten():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 3), nn.BatchNorm1d(3, momentum=None))
    start = StatisticsAtStart()
    start.keep(model)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model(torch.randn(4, 3))
    start.restore()
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers()) and len(before) == 6
    start.forget()
    model(torch.randn(4, 3))
    start.restore()
    assert model[0].num_batches_tracked == 1 == model[2].num_batches_tracked


def test_a_model_without_statistics_has_none_to_restore():
    model, start = nn.Linear(2, 2), StatisticsAtStart()
    before = model.weight.clone()
    start.keep(model)
    start.restore()
    assert torch.equal(model.weight, before)
