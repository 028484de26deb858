"""Updates on a device: overflow in float16, and accumulation in one process against several."""

import copy

import pytest
import torch
from accumulating_ranks import equal_grouping_on, window_gradients_on
from detector_goldens import build_detector, recorded_batch
from gloo_ranks import run_ranks
from goldens import load_golden

from bevfusion_plugin.engine.accumulation.optim_wrapper import AccumulativeAmpOptimWrapper


def test_an_overflow_in_float16_skips_the_update_and_the_scale_comes_down_until_one_fits(device):
    golden = load_golden('e2e_lidar_cam')
    model = build_detector(golden, 'train').to(device)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    wrapper = AccumulativeAmpOptimWrapper(
        optimizer,
        dtype='float16',
        clip_grad=dict(max_norm=35),
        max_bad_windows=100,
        loss_scale=dict(init_scale=2.0**40, backoff_factor=2.0**-8),
    )
    wrapper.initialize_count_status(model, 0, 100)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    data = recorded_batch(golden)
    model.train_step(copy.deepcopy(data), wrapper)
    assert (wrapper.updates, wrapper.skipped_updates, wrapper.scale) == (0, 1, 2.0**32)
    changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert not changed, 'weights and running statistics stay'
    for _ in range(5):
        if not wrapper.updates:
            model.train_step(copy.deepcopy(data), wrapper)
    assert wrapper.updates == 1
    assert any(not torch.equal(value, before[name]) for name, value in model.named_parameters())


def test_accumulation_in_one_process_is_what_as_many_ranks_do(device):
    """Two ranks with two micro-batches a window each, against one that takes all four; on two GPUs they talk over nccl."""
    if device == 'cuda' and torch.cuda.device_count() < 2:
        pytest.skip(f'needs two GPUs for two ranks, this machine has {torch.cuda.device_count()}')
    alone = window_gradients_on(device)
    for found in run_ranks(2, equal_grouping_on, device, backend='nccl' if device == 'cuda' else 'gloo'):
        assert len(found) == len(alone) == 2
        for gradient, expected in zip(found, alone):
            torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-12)
