import copy

import pytest
import torch
from mmengine.optim import AmpOptimWrapper, OptimWrapper, OptimWrapperDict
from mmengine.runner import FlexibleRunner
from scaled_runs import HOOK, LR, SCHEDULES, WRAPPER, Recorder, curves, rows
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler
from toy_training import ToyData, ToyModel, logged, toy_config, toy_runner, toy_loader

from bevfusion_plugin.engine.hooks import auto_scale_lr_hook
from bevfusion_plugin.engine.hooks.auto_scale_lr_hook import AutoScaleLRHook


@pytest.mark.parametrize('schedule', SCHEDULES)
def test_the_whole_curve_is_scaled_by_the_total_batch_and_momentum_is_not(schedule, tmp_path):
    # 1 rank x 2 samples x 2 accumulated = 4 against a base of 8; MMEngine's own scaling would take 2 / 8.
    wrapper = dict(WRAPPER, paramwise_cfg=dict(custom_keys={'net.0': dict(lr_mult=0.1)}))
    plain, reference = curves(tmp_path / 'plain', SCHEDULES[schedule], None, (), wrapper)
    scaled, recorder = curves(
        tmp_path / 'scaled', SCHEDULES[schedule], dict(enable=True, base_batch_size=8, rule='linear'), wrapper=wrapper
    )
    torch.testing.assert_close(rows(recorder.lrs), 0.5 * rows(reference.lrs), rtol=1e-12, atol=0)
    torch.testing.assert_close(rows(recorder.base_lrs), 0.5 * rows(reference.base_lrs), rtol=1e-12, atol=0)
    assert recorder.moms == reference.moms
    assert scaled.optim_wrapper.lr_ratio == 0.5


@pytest.mark.parametrize(
    'rule, base, ratio', [('linear', 16, 0.25), ('sqrt', 16, 0.5), ('none', 16, 1.0), ('linear', 4, 1.0), ('linear', 1, 4.0)]
)
def test_start_peak_and_floor_follow_the_rule(rule, base, ratio, tmp_path):
    runner, recorder = curves(tmp_path, SCHEDULES['mmdet3d cyclic'], dict(enable=True, base_batch_size=base, rule=rule))
    lrs = [row[0] for row in recorder.lrs]
    assert lrs[0] == pytest.approx(LR * ratio)
    assert lrs[8] == pytest.approx(LR * ratio * 10, rel=0.05)
    floor = runner.param_schedulers[1].eta_min
    assert floor == pytest.approx(LR * ratio * 1e-4)


@pytest.mark.parametrize('wrapper', [dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=LR)), WRAPPER])
def test_disabled_it_changes_nothing_and_says_what_it_would_have_done(wrapper, tmp_path):
    schedule = SCHEDULES['mmdet3d cyclic']
    _, reference = curves(tmp_path / 'plain', schedule, None, (), wrapper)
    runner, recorder = curves(
        tmp_path / 'off', schedule, dict(enable=False, base_batch_size=32, rule='sqrt'), wrapper=wrapper, log_level='INFO'
    )
    assert (recorder.lrs, recorder.moms) == (reference.lrs, reference.moms)
    total = 4 if wrapper is WRAPPER else 2
    said = [line for line in logged(runner).splitlines() if 'auto_scale_lr is off' in line]
    assert len(said) == 1
    assert f'would scale it by {(total / 32) ** 0.5:.6g} (sqrt, base batch 32)' in said[0]


@pytest.mark.parametrize('stock', ['OptimWrapper', AmpOptimWrapper])
def test_stock_wrappers_are_scaled_by_their_accumulation_too(stock, tmp_path, monkeypatch):
    if stock is AmpOptimWrapper and not torch.cuda.is_available():
        pytest.skip("MMEngine's AmpOptimWrapper needs a GPU")
    wrapper = dict(type=stock, accumulative_counts=4, optimizer=dict(type='AdamW', lr=LR))
    _, recorder = curves(tmp_path, SCHEDULES['cosine'], dict(enable=True, base_batch_size=32), wrapper=wrapper)
    assert recorder.lrs[0][0] == pytest.approx(LR * 8 / 32)


def test_listed_twice_and_called_again_it_is_applied_once(tmp_path):
    settings = dict(enable=True, base_batch_size=8)
    runner, recorder = curves(tmp_path, SCHEDULES['one-cycle of MMEngine'], settings, (HOOK, HOOK))
    first = recorder.lrs[0][0]
    assert first == pytest.approx(LR / 25 * 0.5)
    after = copy.deepcopy(runner.optim_wrapper.get_lr())
    runner.call_hook('before_run')
    assert runner.optim_wrapper.get_lr() == after


def test_a_dataloader_object_with_a_batch_sampler_is_scaled_through_the_hooks_own_switch(tmp_path):
    data = ToyData()
    loader = DataLoader(data, batch_sampler=BatchSampler(SequentialSampler(data), batch_size=4, drop_last=False))
    _, recorder = curves(
        tmp_path, SCHEDULES['cosine'], dict(enable=False, base_batch_size=4), (dict(HOOK, enable=True),), train_dataloader=loader
    )
    assert recorder.lrs[0][0] == pytest.approx(LR * 2)


class Unsized(BatchSampler):
    """A batch sampler that does not say how many samples it puts together."""

    def __init__(self, sampler):
        super().__init__(sampler, batch_size=4, drop_last=False)
        self.size = self.__dict__.pop('batch_size')

    def __iter__(self):
        return iter(torch.arange(16).split(self.size))

    def __len__(self):
        return 4


def test_a_batch_sampler_without_a_size_is_no_trouble_while_nothing_is_scaled(tmp_path):
    data = ToyData()
    loader = DataLoader(data, batch_sampler=Unsized(SequentialSampler(data)))
    runner, recorder = curves(
        tmp_path / 'off', SCHEDULES['cosine'], dict(enable=False, base_batch_size=4), log_level='INFO', train_dataloader=loader
    )
    assert recorder.lrs[0][0] == LR
    assert 'the batch sampler does not tell the total batch' in logged(runner)
    with pytest.raises(ValueError, match='Unsized has no batch_size.*give the batch sampler a batch_size attribute'):
        curves(tmp_path / 'on', None, dict(enable=False, base_batch_size=4), (dict(HOOK, enable=True),), train_dataloader=loader)


def test_a_configured_batch_sampler_is_scaled_as_usual(tmp_path):
    loader = toy_loader(ToyData(), batch_size=4, batch_sampler=dict(type=BatchSampler, drop_last=False))
    _, recorder = curves(tmp_path, SCHEDULES['cosine'], dict(enable=True, base_batch_size=4), train_dataloader=loader)
    assert recorder.lrs[0][0] == pytest.approx(LR * 2)


def test_auto_accumulation_takes_what_the_total_batch_needs_and_schedules_follow(tmp_path):
    wrapper = dict(WRAPPER, accumulative_counts='auto', total_batch_size=8)
    runner, recorder = curves(tmp_path / 'auto', SCHEDULES['our one-cycle'], dict(enable=False, base_batch_size=8), wrapper=wrapper)
    given, reference = curves(tmp_path / 'given', SCHEDULES['our one-cycle'], None, wrapper=dict(WRAPPER, accumulative_counts=4))
    assert runner.optim_wrapper._accumulative_counts == 4
    assert runner.optim_wrapper.updates == given.optim_wrapper.updates == 4
    assert recorder.lrs == reference.lrs
    assert runner.param_schedulers[0].total_steps == 4


def test_a_total_batch_out_of_reach_stops_before_training(tmp_path):
    with pytest.raises(ValueError, match=r'7 / \(1 x 2\) = 3.5; nearest plans: 1 x 1 x A7 = 7'):
        curves(tmp_path, None, None, wrapper=dict(WRAPPER, accumulative_counts='auto', total_batch_size=7))
    with pytest.raises(ValueError, match='1 x 2 x A2 = 4 is not the total_batch_size of 8'):
        curves(tmp_path, None, None, wrapper=dict(WRAPPER, total_batch_size=8))


@pytest.mark.parametrize(
    'settings, message',
    [
        (dict(enable=False, base_batch_size=0), 'base_batch_size must be an int >= 1, got 0; set auto_scale_lr.base_batch_size'),
        (dict(enable=True, base_batch_size=4, rule='cubic'), "rule must be one of 'linear', 'sqrt', 'none', got 'cubic'"),
    ],
)
def test_a_wrong_auto_scale_lr_is_refused_before_training(settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        curves(tmp_path, None, settings)


def test_a_missing_base_batch_is_refused_by_the_hooks_own_switch(tmp_path):
    with pytest.raises(ValueError, match='base_batch_size is missing; set auto_scale_lr.base_batch_size'):
        curves(tmp_path, None, dict(enable=False), (dict(HOOK, enable=True),))


def test_schedulers_whose_config_the_runner_was_not_given_are_refused(tmp_path):
    runner = toy_runner(
        tmp_path, param_scheduler=SCHEDULES['cosine'], custom_hooks=[HOOK], auto_scale_lr=dict(enable=True, base_batch_size=8)
    )
    runner.cfg.pop('param_scheduler')
    with pytest.raises(ValueError, match='runner.cfg has no param_scheduler; use Runner.from_cfg'):
        runner.train()


def two_wrappers(model, counts):
    return OptimWrapperDict(
        **{
            name: OptimWrapper(torch.optim.SGD(getattr(model, name).parameters(), lr=lr), accumulative_counts=counts)
            for name, lr in (('first', 0.1), ('second', 0.01))
        }
    )


class TwoNets(ToyModel):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 1).double(), nn.Linear(3, 1).double()

    def train_step(self, data, optim_wrapper):
        for name, wrapper in optim_wrapper.items():
            with wrapper.optim_context(self):
                loss = (getattr(self, name)(data['x']) - data['y']).square().mean()
            wrapper.update_params(loss)
        return dict(loss=loss.detach())


def test_several_optimizers_are_each_scaled_with_their_schedulers(tmp_path):
    model = TwoNets()
    runner = toy_runner(
        tmp_path,
        model,
        optim_wrapper=two_wrappers(model, 2),
        custom_hooks=[HOOK],
        auto_scale_lr=dict(enable=True, base_batch_size=8),
        param_scheduler=dict(
            first=[dict(type='CosineAnnealingLR', by_epoch=False, T_max=16, eta_min=1e-2)],
            second=[dict(type='ConstantLR', factor=0.5, by_epoch=False, end=4)],
        ),
    )
    starts = []
    runner.register_hook(AutoScaleLRHook())
    recorder = Recorder()
    recorder.before_train_iter = lambda runner, batch_idx, data_batch=None: starts.append(
        {name: wrapper.get_lr()['lr'][0] for name, wrapper in runner.optim_wrapper.items()}
    )
    runner._hooks.insert(0, recorder)
    runner.train()
    assert starts[0] == pytest.approx(dict(first=0.05, second=0.0025))
    assert runner.param_schedulers['first'][0].eta_min == pytest.approx(5e-3)
    assert starts[-1]['second'] == pytest.approx(0.005)


@pytest.mark.parametrize('schedule', ['mmdet3d cyclic', 'one-cycle of MMEngine', 'our one-cycle', 'our steps with a floor'])
def test_a_resume_with_another_plan_recomputes_the_lr_and_names_both_plans(schedule, tmp_path, monkeypatch):
    settings = dict(enable=True, base_batch_size=8)
    saving = dict(default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1)))

    def plan_of(ranks):
        """As on ``ranks`` ranks, for the arithmetic; MMEngine's own scaling then sees them as well."""
        monkeypatch.setattr('mmengine.runner.Runner.world_size', property(lambda self: ranks))

    plan_of(4)
    _, many = curves(tmp_path / 'many', SCHEDULES[schedule], settings, **saving)
    plan_of(2)
    _, few = curves(tmp_path / 'few', SCHEDULES[schedule], settings, **saving)
    runner, resumed = curves(
        tmp_path / 'resumed',
        SCHEDULES[schedule],
        settings,
        (HOOK, HOOK),
        resume=True,
        log_level='WARNING',
        load_from=str(tmp_path / 'many' / 'epoch_1.pth'),
    )
    assert many.lrs[0][0] == pytest.approx(2 * few.lrs[0][0])
    torch.testing.assert_close(rows(resumed.lrs), rows(few.lrs[8:]), rtol=1e-12, atol=0)
    named = [line for line in logged(runner).splitlines() if 'another batch plan' in line]
    assert len(named) == 1
    assert 'was 4 x 2 x A2 = 16, is 2 x 2 x A2 = 8' in named[0]


def test_a_resume_with_the_same_plan_warns_of_nothing_and_changes_nothing(tmp_path):
    settings = dict(enable=True, base_batch_size=8)
    saving = dict(default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1)))
    _, whole = curves(tmp_path / 'whole', SCHEDULES['mmdet3d cyclic'], settings, **saving)
    runner, resumed = curves(
        tmp_path / 'resumed',
        SCHEDULES['mmdet3d cyclic'],
        settings,
        resume=True,
        log_level='WARNING',
        load_from=str(tmp_path / 'whole' / 'epoch_1.pth'),
    )
    assert resumed.lrs == whole.lrs[8:]
    assert 'batch plan' not in logged(runner)


def test_outside_training_it_does_nothing():
    class Testing:
        _train_loop = dict()
        optim_wrapper = None

    AutoScaleLRHook().before_run(Testing())
    assert auto_scale_lr_hook.HOOKS.get('AutoScaleLRHook') is AutoScaleLRHook


def test_a_switch_that_is_text_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match="auto_scale_lr.enable must be True or False, got 'False'; write it without quotes"):
        curves(tmp_path, SCHEDULES['cosine'], dict(enable='False', base_batch_size=4))
    with pytest.raises(ValueError, match="enable must be True or False, got 'False'"):
        AutoScaleLRHook(enable='False')


def test_another_runner_is_refused_by_name(tmp_path):
    runner = toy_flexible_runner(tmp_path)
    with pytest.raises(ValueError, match='got FlexibleRunner; use Runner'):
        runner.train()


def toy_flexible_runner(tmp_path):
    config = toy_config(tmp_path, optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1)))
    model = ToyModel()
    config.pop('model', None)
    return FlexibleRunner(model=model, custom_hooks=[HOOK], **{key: value for key, value in config.items() if key != 'custom_hooks'})
