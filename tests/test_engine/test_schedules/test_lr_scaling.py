import pytest
import torch
from mmengine.optim import OptimWrapper
from mmengine.optim.scheduler import CosineAnnealingLR, LinearMomentum
from torch import nn

from bevfusion_plugin.engine.schedules.lr_scaling import scale_checkpoint, scale_entries, scale_scheduler, unscheduled


def adam(lr=0.1):
    layers = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    optimizer = torch.optim.AdamW([dict(params=layers[0].parameters()), dict(params=layers[1].parameters(), lr=lr / 10)], lr=lr)
    return OptimWrapper(optimizer)


def test_numbers_and_lists_are_multiplied_and_what_is_absent_stays_so():
    entries = dict(eta_min=2.0, base_values=[1.0, 3.0], eta_max=None, other=5.0)
    scale_entries(entries, ('eta_min', 'base_values', 'eta_max', 'missing'), 0.5)
    assert entries == dict(eta_min=1.0, base_values=[0.5, 1.5], eta_max=None, other=5.0)


def test_a_momentum_scheduler_is_left_alone():
    wrapper = adam()
    scheduler = LinearMomentum(wrapper, start_factor=0.5, end=4)
    before = dict(vars(scheduler))
    scale_scheduler(scheduler, 0.5)
    assert vars(scheduler) == before


def test_groups_come_back_to_before_any_scheduler_and_any_scaling():
    wrapper = adam()
    for group in wrapper.optimizer.param_groups:
        group['lr'] *= 0.25  # as MMEngine's own scaling does, which leaves base_lr alone
    CosineAnnealingLR(wrapper, T_max=4), LinearMomentum(wrapper, start_factor=0.5, end=4)
    assert wrapper.get_momentum()['momentum'] == [0.45, 0.45]
    unscheduled(wrapper, 0.25)
    assert wrapper.get_lr() == dict(base_lr=[0.1], lr=[0.1, pytest.approx(0.01)])
    assert wrapper.get_momentum()['momentum'] == [0.9, 0.9]
    assert not [key for group in wrapper.param_groups for key in group if key.startswith('initial_')]


def test_a_checkpoint_is_scaled_in_every_learning_rate_it_holds():
    optimizer = dict(param_groups=[dict(lr=1.0, initial_lr=2.0, max_lr=4.0, weight_decay=7.0)], base_param_settings=dict(lr=8.0))
    schedulers = [
        dict(param_name='lr', base_values=[2.0], eta_min=1.0, T_max=9),
        dict(param_name='momentum', base_values=[0.9]),
        dict(settings=dict(peak_lrs=[2.0], total_steps=5), _last_value=[1.0]),
    ]
    scale_checkpoint(optimizer, schedulers, 0.5)
    assert optimizer == dict(param_groups=[dict(lr=0.5, initial_lr=1.0, max_lr=2.0, weight_decay=7.0)], base_param_settings=dict(lr=4.0))
    assert schedulers == [
        dict(param_name='lr', base_values=[1.0], eta_min=0.5, T_max=9),
        dict(param_name='momentum', base_values=[0.9]),
        dict(settings=dict(peak_lrs=[1.0], total_steps=5), _last_value=[0.5]),
    ]
