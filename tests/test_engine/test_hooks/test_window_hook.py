import warnings

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapperDict
from toy_training import ToyData, ToyModel, batch_norm_net, logged, toy_runner
from windowed_runs import OURS, OUR_SCHEDULERS, SCHEDULERS, Noisy, loader, optim_wrapper, parameters, training

from bevfusion_plugin.engine.accumulation.batch_norm import corrected_momentum
from bevfusion_plugin.engine.accumulation.optim_wrapper import AccumulativeAmpOptimWrapper
from bevfusion_plugin.engine.hooks.window_hook import WindowHook


@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('loop', ['epochs', 'iterations'])
def test_resuming_at_any_window_continues_the_uninterrupted_run_bit_for_bit(loop, workers, tmp_path):
    data = dict(train_dataloader=loader(16, workers=workers))
    whole = training(tmp_path / 'whole', loop, **data)
    whole.train()
    saved = sorted(int(path.stem.split('_')[1]) for path in (tmp_path / 'whole').glob('iter_*.pth'))
    assert saved == ([3, 6, 8, 11, 14, 16] if loop == 'epochs' else [3, 6, 9, 12, 15, 16]), 'at the ends of windows, and nowhere else'
    for iteration in saved[:-1] if workers == 0 else saved[3:4]:
        runner = training(
            tmp_path / f'from{iteration}', loop, resume=True, load_from=str(tmp_path / 'whole' / f'iter_{iteration}.pth'), **data
        )
        iterations = []
        runner.register_hook(IterationRecorder(iterations))
        runner.train()
        assert iterations == list(range(iteration, 16))
        assert torch.equal(parameters(runner), parameters(whole))
        assert runner.optim_wrapper.get_lr() == whole.optim_wrapper.get_lr()
        assert runner.optim_wrapper.updates == whole.optim_wrapper.updates == len(saved)


class IterationRecorder(Hook):
    def __init__(self, iterations):
        self.iterations = iterations

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.iterations.append(runner.iter)


def test_a_loop_over_iterations_that_is_resumed_loads_only_what_it_trains_on(tmp_path):
    training(tmp_path / 'whole', 'iterations').train()
    runner = training(tmp_path / 'resumed', 'iterations', resume=True, load_from=str(tmp_path / 'whole' / 'iter_12.pth'))
    loaded = []
    get = Noisy.__getitem__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Noisy, '__getitem__', lambda self, index: loaded.append(index) or get(self, index))
        runner.train()
    assert len(loaded) == 2 * (16 - 12)


class SampleRecorder(Hook):
    """The samples of each update, by the first number of each."""

    def __init__(self, updates):
        self.updates, self.open = updates, []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.open += data_batch['x'][:, 0].tolist()
        if runner.optim_wrapper.should_update():
            self.updates.append(sorted(self.open))
            self.open = []


@pytest.mark.parametrize('loop', ['epochs', 'iterations'])
@pytest.mark.parametrize('stopped_at', [1, 4, 6])
def test_other_samples_a_rank_with_the_same_total_batch_go_on_with_the_very_next_sample(loop, stopped_at, tmp_path):
    """18 samples filled up to 24 an epoch, 6 an update: 1 x 6, 3 x 2 and 6 x 1 make 8 updates in 2 epochs."""

    def run(name, batch_size, **overrides):
        updates, counts = [], 6 // batch_size
        train_cfg = dict(by_epoch=True, max_epochs=2) if loop == 'epochs' else dict(by_epoch=False, max_iters=8 * counts)
        runner = training(
            tmp_path / name,
            loop,
            train_cfg=train_cfg,
            schedulers=None,
            optim_wrapper=optim_wrapper(counts),
            train_dataloader=loader(22, batch_size, total_batch_size=6),
            **overrides,
        )
        runner.model.net[1].p = 0.0  # dropout's masks hang on the micro-batches
        runner.register_hook(SampleRecorder(updates))
        runner.train()
        return runner, updates

    whole, seen = run('whole', 6)
    assert len(seen) == 8 and all(len(update) == 6 for update in seen)
    run('fine', 2)
    resumed, rest = run('resumed', 1, resume=True, load_from=str(tmp_path / 'fine' / f'iter_{3 * stopped_at}.pth'))
    assert rest == seen[stopped_at:]
    torch.testing.assert_close(parameters(resumed), parameters(whole), rtol=0, atol=1e-10)
    assert resumed.optim_wrapper.updates == 8


def test_a_loop_over_iterations_with_twice_the_accumulation_makes_the_updates_that_are_left(tmp_path):
    training(
        tmp_path / 'whole', 'iterations', schedulers=None, optim_wrapper=optim_wrapper(2), train_cfg=dict(by_epoch=False, max_iters=24)
    ).train()
    runner = training(
        tmp_path / 'resumed',
        'iterations',
        schedulers=None,
        optim_wrapper=optim_wrapper(4),
        resume=True,
        train_cfg=dict(by_epoch=False, max_iters=48),
        load_from=str(tmp_path / 'whole' / 'iter_12.pth'),
    )
    runner.train()
    assert runner.optim_wrapper.updates == 12


def test_the_end_of_an_epoch_that_was_not_finished_is_made_up_for(tmp_path):
    """A checkpoint after an epoch's last window: the resumed run goes through its end, the checkpoint of the epoch included."""
    whole = training(tmp_path / 'whole', 'epochs')
    whole.train()
    runner = training(tmp_path / 'resumed', 'epochs', resume=True, load_from=str(tmp_path / 'whole' / 'iter_8.pth'))
    ends = []
    runner.register_hook(EpochRecorder(ends))
    runner.train()
    assert ends == [0, 1] and torch.equal(parameters(runner), parameters(whole))


class EpochRecorder(Hook):
    def __init__(self, ends):
        self.ends = ends

    def after_train_epoch(self, runner):
        self.ends.append(runner.epoch)


def test_a_sampler_that_always_begins_an_epoch_is_refused_inside_one(tmp_path):
    training(tmp_path / 'whole', 'epochs').train()
    stock = dict(train_dataloader=loader(16, sampler='DefaultSampler'), resume=True)
    runner = training(tmp_path / 'stock', 'epochs', load_from=str(tmp_path / 'whole' / 'iter_11.pth'), **stock)
    with pytest.raises(ValueError, match="inside epoch 2, after 3 of 8 micro-batches, and DefaultSampler always .*SeekableSampler"):
        runner.train()
    training(tmp_path / 'stock', 'epochs', load_from=str(tmp_path / 'whole' / 'iter_8.pth'), **stock)


def test_without_the_hook_an_epoch_that_would_begin_anew_is_refused(tmp_path):
    training(tmp_path / 'whole', 'epochs').train()
    runner = training(tmp_path / 'bare', 'epochs', hooks=False, resume=True, load_from=str(tmp_path / 'whole' / 'iter_11.pth'))
    with pytest.raises(ValueError, match='micro-batch 11, which is no start of an epoch of 8; add .*WindowHook'):
        runner.train()


def test_the_wrapper_asks_for_the_hook_by_name(tmp_path):
    for hooks in (False, True):
        runner = training(tmp_path / str(hooks), 'epochs', hooks=hooks, log_level='WARNING', checkpoint=dict(type='CheckpointHook'))
        runner.train()
        assert ("accumulates without dict(type='bevfusion_plugin.WindowHook')" in logged(runner)) == (not hooks)


def test_stock_checkpoints_inside_windows_are_refused(tmp_path):
    runner = training(tmp_path, 'iterations', checkpoint=dict(type='CheckpointHook', interval=4, by_epoch=False))
    with pytest.raises(ValueError, match='by_epoch=False, interval=4.* saves inside windows'):
        runner.train()


def test_a_checkpoint_of_a_run_without_the_hook_goes_on_with_its_own_plan(tmp_path):
    bare = dict(train_dataloader=loader(16, sampler='DefaultSampler'), schedulers=OUR_SCHEDULERS)
    training(
        tmp_path / 'bare', 'iterations', hooks=False, checkpoint=dict(type='CheckpointHook', interval=1, by_epoch=False), **bare
    ).train()
    runner = training(
        tmp_path / 'resumed', 'iterations', resume=True, log_level='WARNING', load_from=str(tmp_path / 'bare' / 'iter_4.pth'), **bare
    )
    iterations = []
    runner.register_hook(IterationRecorder(iterations))
    runner.train()
    assert iterations[0] == 3, 'at the start of the window that the checkpoint lies in'
    assert 'the gradients of 1 micro-batches are lost' in logged(runner)


@pytest.mark.parametrize('flush, updates', [('epoch', 6), ('train', 6)])
@pytest.mark.parametrize('hooks', [True, False])
def test_epoch_checkpoints_continue_the_uninterrupted_run(flush, updates, hooks, tmp_path):
    def plain_loader(samples):
        return dict(loader(samples), dataset=ToyData(samples), sampler=dict(type='DefaultSampler', shuffle=False))

    def train(name, **overrides):
        (tmp_path / name).mkdir()
        runner = toy_runner(
            tmp_path / name,
            ToyModel(batch_norm_net),
            param_scheduler=SCHEDULERS,
            optim_wrapper=optim_wrapper(flush=flush),
            custom_hooks=[WindowHook()] if hooks else [],
            train_dataloader=plain_loader(12 if flush == 'train' else 16),
            default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1)),
            train_cfg=dict(by_epoch=True, max_epochs=3 if flush == 'train' else 2),
            **overrides,
        )
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


def test_a_training_stopped_inside_a_window_is_the_one_of_its_last_update(tmp_path):
    runner = training(tmp_path, 'iterations', custom_hooks=[*OURS, StopAfter(5)], log_level='INFO')
    runner.train()
    assert runner.optim_wrapper.updates == 1 and not runner.optim_wrapper.window.is_open
    assert 'its 2 micro-batches made no update' in logged(runner)
    stored = torch.load(tmp_path / 'iter_3.pth')['state_dict']
    assert all(torch.equal(stored[name], value) for name, value in runner.model.state_dict().items())
    assert all(p.grad is None for p in runner.model.parameters())


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
    first = toy_runner(tmp_path / 'first', optim_wrapper=optim_wrapper(), custom_hooks=[dict(type='bevfusion_plugin.WindowHook')])
    (tmp_path / 'second').mkdir()
    toy_runner(tmp_path / 'second')  # MMEngine's current message hub is now this one's
    first.train()
    assert len(first.message_hub.get_scalar('train/grad_norm').data[0]) == 6


def test_each_of_several_optimizers_corrects_the_statistics_it_is_told_to(tmp_path):
    def build(correction):
        model = ToyModel(batch_norm_net)
        wrapper = AccumulativeAmpOptimWrapper(
            torch.optim.SGD(model.parameters(), lr=0.1), 4, dtype='float32', bn_momentum_correction=correction
        )
        runner = toy_runner(tmp_path, model)
        runner.optim_wrapper = OptimWrapperDict(one=wrapper)
        WindowHook().before_train(runner)
        return model.net[1].momentum

    assert build(False) == 0.1 and build(True) == corrected_momentum(0.1, 4)
