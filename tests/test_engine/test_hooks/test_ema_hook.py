import copy
import math
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import EMAHook as MMEngineEMAHook
from mmengine.optim import OptimWrapper, OptimWrapperDict
from toy_training import ToyData, ToyModel, batch_norm_net, linear_net, toy_runner, toy_loader

from bevfusion_plugin.engine.hooks.ema_hook import EMAHook


def averaged(folder, wrapper, ema='bevfusion_plugin.EMAHook', data=None, model=None, epochs=1, batch_size=2, **hook):
    runner = toy_runner(
        folder,
        model or ToyModel(linear_net, torch.float32),
        train_dataloader=toy_loader(data or ToyData(dtype=torch.float32), batch_size=batch_size),
        optim_wrapper=copy.deepcopy(wrapper),
        custom_hooks=[dict(type=ema, **hook)],
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
    )
    runner.train()
    return runner, next(h for h in runner.hooks if isinstance(h, EMAHook) or type(h).__name__ == 'EMAHook').ema_model


def wrapper(counts, **kwargs):
    return dict(
        dict(
            type='bevfusion_plugin.AccumulativeAmpOptimWrapper',
            dtype='float32',
            accumulative_counts=counts,
            optimizer=dict(type='SGD', lr=0.1),
        ),
        **kwargs,
    )


def test_an_overflow_moves_neither_parameters_nor_average(tmp_path):
    data = ToyData(dtype=torch.float32, marks={0: math.inf})  # micro-batch 1 of 8, windows of 2
    runner, average = averaged(tmp_path, wrapper(2, dtype='float16', loss_scale=dict(init_scale=4.0)), data=data)
    assert (runner.optim_wrapper.updates, runner.optim_wrapper.skipped_updates) == (3, 1)
    assert int(average.steps) == 3


@pytest.mark.parametrize('counts, updates', [(1, 8), (3, 3), (8, 1)])
def test_the_average_moves_once_an_update(counts, updates, tmp_path):
    _, average = averaged(tmp_path, wrapper(counts))
    assert int(average.steps) == updates


def test_the_average_is_that_of_a_run_with_the_big_batch(tmp_path):
    models = {}
    for name, counts, batch_size in (('accumulated', 4, 2), ('big', 1, 8)):
        (tmp_path / name).mkdir()
        _, average = averaged(
            tmp_path / name, wrapper(counts), data=ToyData(32), model=ToyModel(), batch_size=batch_size, epochs=2, momentum=0.3
        )
        models[name] = torch.cat([p.flatten() for p in average.module.parameters()])
    torch.testing.assert_close(models['accumulated'], models['big'], rtol=1e-12, atol=1e-14)


def test_a_stock_wrapper_is_followed_by_its_windows(tmp_path):
    _, average = averaged(tmp_path, dict(type='OptimWrapper', accumulative_counts=4, optimizer=dict(type='SGD', lr=0.1)))
    assert int(average.steps) == 2


def test_before_it_begins_the_average_is_a_copy(tmp_path):
    runner, average = averaged(tmp_path, wrapper(4), begin_iter=7, model=ToyModel(batch_norm_net), data=ToyData())
    assert int(average.steps) == 1
    for name, value in runner.model.state_dict().items():
        assert torch.equal(average.module.state_dict()[name], value)


def test_mmengines_own_hook_still_goes_by_its_bare_name(tmp_path):
    _, average = averaged(tmp_path, wrapper(4), ema='EMAHook')
    assert int(average.steps) == 8


@pytest.mark.parametrize('positions, moved', [((1, 1), 0), ((0, 1), 1), ((0, 0), 1)])
def test_with_several_optimizers_it_moves_when_one_made_an_update(positions, moved, monkeypatch):
    wrappers = OptimWrapperDict(
        **{name: OptimWrapper(torch.optim.SGD(linear_net().parameters(), lr=0.1), accumulative_counts=2) for name in 'ab'}
    )
    for one, position in zip(wrappers.values(), positions):
        one.initialize_count_status(torch.nn.Identity(), 0, 8)
        one._inner_count = 2 + position
    moves = []
    monkeypatch.setattr(MMEngineEMAHook, 'after_train_iter', lambda *args: moves.append(1))
    EMAHook().after_train_iter(SimpleNamespace(optim_wrapper=wrappers, iter=9, epoch=0), 0)
    assert len(moves) == moved
