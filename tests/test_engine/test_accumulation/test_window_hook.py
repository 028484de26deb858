import warnings

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapperDict
from toy_training import ToyData, ToyModel, batch_norm_net, logged, toy_runner

from bevfusion_plugin.engine.accumulation.optim_wrapper import AccumulativeAmpOptimWrapper
from bevfusion_plugin.engine.accumulation.window_hook import WindowHook

COUNTS = 3
SCHEDULERS = [dict(type='CosineAnnealingLR', by_epoch=False, T_max=9, eta_min=1e-3),
              dict(type='LinearMomentum', start_factor=0.5, end=5, by_epoch=False)]
OUR_SCHEDULERS = [dict(type='bevfusion_plugin.OneCycleParamScheduler', by_epoch=False, total_steps=3, end=3)]


def optim_wrapper(**kwargs):
    return dict(type='bevfusion_plugin.AccumulativeAmpOptimWrapper', dtype='float32', accumulative_counts=COUNTS,
                optimizer=dict(type='AdamW', lr=0.05), **kwargs)


def by_iteration(folder, hooks=True, iterations=3 * COUNTS, schedulers=SCHEDULERS, **overrides):
    """A loop over iterations that saves every one of them."""
    folder.mkdir(exist_ok=True)
    settings = dict(train_cfg=dict(by_epoch=False, max_iters=iterations), custom_hooks=[WindowHook()] if hooks else [],
                    train_dataloader=loader(2 * iterations), param_scheduler=schedulers, optim_wrapper=optim_wrapper(),
                    default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1, by_epoch=False)))
    return toy_runner(folder, **{**settings, **overrides})


def loader(samples):
    return dict(batch_size=2, num_workers=0, dataset=ToyData(samples), collate_fn=dict(type='default_collate'),
                sampler=dict(type='DefaultSampler', shuffle=False))


def parameters(runner):
    return torch.cat([p.detach().flatten() for p in runner.model.parameters()])


@pytest.mark.parametrize('schedulers', [SCHEDULERS, OUR_SCHEDULERS])
def test_resuming_at_any_iteration_continues_the_uninterrupted_run(schedulers, tmp_path):
    whole = by_iteration(tmp_path / 'whole', schedulers=schedulers)
    whole.train()
    for iteration in range(1, 2 * COUNTS):
        runner = by_iteration(tmp_path / f'from{iteration}', schedulers=schedulers, resume=True,
                              load_from=str(tmp_path / 'whole' / f'iter_{iteration}.pth'))
        starts = []
        runner.register_hook(StartRecorder(starts))
        runner.train()
        assert starts[0] == iteration - iteration % COUNTS, 'a checkpoint inside a window rewinds to its start'
        torch.testing.assert_close(parameters(runner), parameters(whole), rtol=0, atol=1e-12)
        assert runner.optim_wrapper.get_lr()['lr'] == pytest.approx(whole.optim_wrapper.get_lr()['lr'], rel=1e-12)
        assert runner.optim_wrapper.updates == whole.optim_wrapper.updates == 3


class StartRecorder(Hook):
    def __init__(self, starts):
        self.starts = starts

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.starts.append(runner.iter)


def test_a_rewound_checkpoint_says_so(tmp_path):
    runner = by_iteration(tmp_path, iterations=2, log_level='INFO')
    runner.train()
    assert 'lies inside a window and is stored as of its start, iteration 0' in logged(runner)


def test_without_any_of_our_hooks_the_rest_of_the_window_makes_a_full_update(tmp_path):
    by_iteration(tmp_path / 'whole', hooks=False).train()
    runner = by_iteration(tmp_path / 'resumed', hooks=False, resume=True, log_level='WARNING',
                          load_from=str(tmp_path / 'whole' / 'iter_4.pth'))
    windows = []
    runner.register_hook(WindowRecorder(windows))
    runner.train()
    assert windows == [([1 / 2] * 2), ([1 / 3] * 3)]
    assert 'the gradients of 1 micro-batches are lost' in logged(runner)


class WindowRecorder(Hook):
    """Weights of the micro-batches of each window."""

    def __init__(self, windows):
        self.windows, self.open = windows, []

    def before_train(self, runner):
        window = runner.optim_wrapper._window
        weight = window.weight
        window.weight = lambda micro_batch: self.open.append(weight(micro_batch)) or self.open[-1]

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.optim_wrapper.should_update():
            self.windows.append(self.open)
            self.open = []


@pytest.mark.parametrize('flush, updates', [('epoch', 6), ('train', 6)])
@pytest.mark.parametrize('hooks', [True, False])
def test_epoch_checkpoints_continue_the_uninterrupted_run(flush, updates, hooks, tmp_path):
    def train(name, **overrides):
        (tmp_path / name).mkdir()
        runner = toy_runner(tmp_path / name, ToyModel(batch_norm_net), param_scheduler=SCHEDULERS,
                            optim_wrapper=optim_wrapper(flush=flush), custom_hooks=[WindowHook()] if hooks else [],
                            train_dataloader=loader(12 if flush == 'train' else 16),
                            default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1)),
                            train_cfg=dict(by_epoch=True, max_epochs=3 if flush == 'train' else 2), **overrides)
        runner.train()
        return runner

    whole = train('whole')
    assert whole.optim_wrapper.updates == updates
    for epoch in range(1, whole.max_epochs):
        checkpoint = tmp_path / 'whole' / f'epoch_{epoch}.pth'
        assert torch.load(checkpoint)['optimizer']['window']['position'] == 0
        resumed = train(f'from{epoch}', resume=True, load_from=str(checkpoint))
        for name, value in whole.model.state_dict().items():
            assert torch.equal(resumed.model.state_dict()[name], value), name


class StopAfter(Hook):
    def __init__(self, iteration):
        self.iteration = iteration

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        runner.train_loop.stop_training = runner.iter + 1 == self.iteration


def test_a_training_stopped_inside_a_window_makes_its_last_update(tmp_path):
    runner = by_iteration(tmp_path, iterations=9, custom_hooks=[WindowHook(), StopAfter(5)], log_level='INFO')
    runner.train()
    assert runner.optim_wrapper.updates == 2
    assert runner.optim_wrapper.window_position == 0
    assert 'its update was made from the micro-batches it had' in logged(runner)


def test_an_epoch_loop_flushes_every_epoch_even_without_our_hooks(tmp_path):
    runner = toy_runner(tmp_path, optim_wrapper=optim_wrapper())  # 8 micro-batches an epoch: 3 + 3 + 2
    runner.train()
    assert runner.optim_wrapper.updates == 6


def test_stock_schedulers_do_not_take_a_micro_batch_without_update_for_a_wrong_call_order(tmp_path):
    runner = toy_runner(tmp_path, optim_wrapper=optim_wrapper(), param_scheduler=SCHEDULERS)
    with warnings.catch_warnings():
        warnings.filterwarnings('error', message='Detected call of `scheduler.step')
        runner.train()
    assert runner.param_schedulers[0]._global_step == 16, 'they still count micro-batches'


def test_the_wrapper_logs_where_its_own_runner_logs(tmp_path):
    (tmp_path / 'first').mkdir()
    first = toy_runner(tmp_path / 'first', optim_wrapper=optim_wrapper(),
                       custom_hooks=[dict(type='bevfusion_plugin.AutoScaleLRHook')])
    (tmp_path / 'second').mkdir()
    toy_runner(tmp_path / 'second')  # MMEngine's current message hub is now this one's
    first.train()
    assert len(first.message_hub.get_scalar('train/grad_norm').data[0]) == 6


def test_several_optimizers_are_flushed_too():
    model = ToyModel()
    wrappers = OptimWrapperDict(**{name: AccumulativeAmpOptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1),
                                                                     accumulative_counts=4, dtype='float32')
                                   for name in ('one', 'two')})

    class Stopped:
        optim_wrapper = wrappers
        logger = type('Logger', (), dict(info=staticmethod(lambda text: None)))

    for wrapper in wrappers.values():
        wrapper.update_params(sum(p.sum() for p in model.parameters()))
    WindowHook().after_train(Stopped)
    assert [wrapper.updates for wrapper in wrappers.values()] == [1, 1]
