import copy

import pytest
import torch
from gloo_ranks import run_ranks
from mmengine.logging import MessageHub
from noisy_regression import analytic_noise_scale, measured, measured_by_ranks
from toy_training import ToyData, ToyModel, linear_net, logged, toy_runner, toy_loader

from bevfusion_plugin.engine.accumulation.optim_wrapper import AccumulativeAmpOptimWrapper
from bevfusion_plugin.engine.hooks.gradient_noise_scale_hook import GradientNoiseScaleHook, NoiseScaleMeter
from bevfusion_plugin.plan.batch_plan import BatchPlan

SEEDS = [0, 1, 2]
WRAPPER = dict(
    type='bevfusion_plugin.AccumulativeAmpOptimWrapper', dtype='float32', accumulative_counts=2, optimizer=dict(type='SGD', lr=0.01)
)


@pytest.mark.parametrize('seed', SEEDS)
def test_the_noise_scale_of_a_known_regression_is_found_with_and_without_a_loss_scale(seed):
    plain = measured(0, 1, seed, 4)
    assert plain == pytest.approx(analytic_noise_scale(), rel=0.1)
    if seed == SEEDS[0]:
        scaled = measured(0, 1, seed, 4, dtype='float16', loss_scale=1024)
        assert scaled == pytest.approx(plain, rel=1e-6)


def test_two_ranks_find_the_same_noise_scale():
    per_rank = run_ranks(2, measured_by_ranks, SEEDS, 2)
    assert per_rank[0] == pytest.approx(per_rank[1], rel=1e-9)
    for found in per_rank[0]:
        assert found == pytest.approx(analytic_noise_scale(), rel=0.1)


@pytest.mark.parametrize('smoothing', [-0.1, 1.0, 2])
def test_a_wrong_smoothing_is_refused_at_construction(smoothing):
    with pytest.raises(ValueError, match='smoothing must be in'):
        GradientNoiseScaleHook(smoothing)


def run(folder, wrapper=WRAPPER, data=None, **overrides):
    runner = toy_runner(
        folder,
        ToyModel(linear_net, torch.float32),
        optim_wrapper=copy.deepcopy(wrapper),
        log_level='INFO',
        custom_hooks=[dict(type='bevfusion_plugin.GradientNoiseScaleHook')],
        train_dataloader=toy_loader(data or ToyData(64, torch.float32)),
        **overrides,
    )
    runner.train()
    return runner


def test_a_training_logs_it_and_ends_with_a_suggestion(tmp_path):
    runner = run(tmp_path)
    assert 'noise_scale' in ' '.join(runner.message_hub.log_scalars)
    assert 'gradient noise scale: ' in logged(runner)
    assert 'now it is 1 x 2 x A2 = 4' in logged(runner)
    assert runner.optim_wrapper.on_first_gradient is None


def test_measuring_changes_nothing_of_the_training(tmp_path):
    (tmp_path / 'with').mkdir()
    (tmp_path / 'without').mkdir()
    with_hook = run(tmp_path / 'with')
    without = toy_runner(
        tmp_path / 'without',
        ToyModel(linear_net, torch.float32),
        optim_wrapper=copy.deepcopy(WRAPPER),
        train_dataloader=with_hook.train_dataloader,
    )
    without.train()
    for one, other in zip(with_hook.model.parameters(), without.model.parameters()):
        assert torch.equal(one, other)


def meter_of(counts=2, samples=2, **settings):
    model = ToyModel(linear_net, torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    wrapper = AccumulativeAmpOptimWrapper(optimizer, counts, **{'dtype': 'float32', **settings})
    wrapper.message_hub = MessageHub.get_instance('noise_scale')
    return model, wrapper, NoiseScaleMeter(wrapper, BatchPlan(1, samples, counts), 0.9)


def test_only_full_and_applied_windows_count():
    model, wrapper, meter = meter_of(2)
    wrapper.batches_per_epoch = 3  # windows of 2 and 1
    taken = []
    for value in [1.0, 2.0, 1.0, float('nan'), 1.0, 1.0]:
        with wrapper.optim_context(model):
            losses = model(torch.full((2, 3), value), torch.ones(2, 1))
        wrapper.update_params(losses['loss_fit'])
        taken.append(meter.after_micro_batch())
    assert taken == [False, True, False, False, False, False]


def test_a_suggestion_names_the_accumulation_for_these_ranks_and_samples():
    _, _, meter = meter_of(4)
    assert 'not measurable' in meter.suggestion()
    meter.noise_scale.add(1.0, 21.0)
    assert 'gradient noise scale: 21 samples' in meter.suggestion()
    assert 'With 1 x 2 that is accumulative_counts=10.' in meter.suggestion()
    meter.noise_scale.add(1e3, 0.0)
    assert 'accumulative_counts=1.' in meter.suggestion()


@pytest.mark.parametrize(
    'wrapper, message',
    [
        (dict(WRAPPER, accumulative_counts=1), r'at least two micro-batches, got 1 x 2 x A1 = 2; halve'),
        (dict(WRAPPER, clip_grad=dict(max_norm=1, norm_type=1)), 'euclidean norms, got norm_type=1'),
        (dict(type='OptimWrapper', accumulative_counts=2, optimizer=dict(type='SGD', lr=0.1)), 'windows of OptimWrapper'),
    ],
)
def test_what_cannot_be_measured_is_refused_before_training(wrapper, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        run(tmp_path, wrapper)
