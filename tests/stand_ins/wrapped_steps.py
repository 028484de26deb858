"""An optimizer wrapper around AdamW, driven micro-batch by micro-batch without a runner."""

import torch
from toy_training import FEATURES

from bevfusion_plugin.engine.accumulation.optim_wrapper import AccumulativeAmpOptimWrapper


def build(model, **kwargs):
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    return AccumulativeAmpOptimWrapper(optimizer, **{'dtype': 'float32', **kwargs})


def micro_batch(value=1.0):
    return torch.full((2, FEATURES), value), torch.ones(2, 1)


def train(model, wrapper, values, on_iteration=lambda i: None):
    wrapper.initialize_count_status(model, 0, len(values))
    for i, value in enumerate(values):
        with wrapper.optim_context(model):
            losses = model(*micro_batch(value))
        wrapper.update_params(losses['loss_fit'])
        on_iteration(i)
