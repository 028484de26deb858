"""What the divergence sentinel lets pass: one broken rule, updates that were skipped, and what is over."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from mmengine.optim import OptimWrapper
from scripted_losses import scripted_run
from toy_training import linear_net, logged

from bevfusion_plugin.engine.hooks.divergence_sentinel_hook import TrainingDiverged, clip_norm, open_report, update_applied

QUICK = dict(patience=6, warmup=0)
GOOD, BAD = dict(loss=1.0, grad_norm=2.0), dict(loss=9.0, grad_norm=90.0)
NAN = dict(loss=math.nan, grad_norm=math.nan)
STOCK = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=1e-3))


def report(folder):
    return json.loads((folder / 'divergence.json').read_text())


@pytest.mark.parametrize('bad', [dict(loss=9.0, grad_norm=2.0), dict(loss=1.0, grad_norm=90.0)])
def test_one_broken_rule_warns_and_does_not_stop(bad, tmp_path):
    runner = scripted_run(tmp_path, [GOOD] * 16 + [bad] * 24, dict(action='stop', **QUICK))
    runner.train()
    assert runner.iter == 40
    assert logged(runner).count('the training may diverge at update') == 1
    assert report(tmp_path)['lost'] is False and len(report(tmp_path)['reasons']) == 1
    assert (tmp_path / 'last_checkpoint').read_text().endswith('epoch_10.pth'), 'it goes on from the newest one'


def test_the_clip_of_the_wrapper_is_taken_into_account(tmp_path):
    wrapper = dict(
        type='bevfusion_plugin.AccumulativeAmpOptimWrapper',
        dtype='float32',
        clip_grad=dict(max_norm=100.0),
        optimizer=dict(type='SGD', lr=1e-3),
    )
    scripted_run(tmp_path, [GOOD] * 16 + [BAD] * 8, dict(QUICK, loss_ratio=None), optim_wrapper=wrapper).train()
    assert not (tmp_path / 'divergence.json').exists()


@pytest.mark.parametrize('accumulative_counts', [1, 2])
def test_a_nan_in_an_update_that_was_skipped_goes_on(accumulative_counts, tmp_path):
    runner = scripted_run(
        tmp_path, [GOOD] * 16 + [NAN] + [GOOD] * 23, dict(action='stop', **QUICK), accumulative_counts=accumulative_counts
    )
    runner.train()
    assert runner.iter == 40
    assert runner.optim_wrapper.skipped_updates == 1
    assert [path.name for path in tmp_path.glob('*.pth')] == ['epoch_10.pth']
    assert not (tmp_path / 'divergence.json').exists()


def test_a_nan_in_an_update_that_was_made_stops_at_once(tmp_path):
    runner = scripted_run(tmp_path, [GOOD] * 16 + [NAN] + [GOOD] * 23, dict(action='stop', **QUICK), optim_wrapper=STOCK)
    with pytest.raises(TrainingDiverged, match=r'the training diverges at update 17 \(iteration 17\): the loss is nan'):
        runner.train()
    assert report(tmp_path)['lost'] is True


def test_the_wrapper_ends_a_training_whose_losses_stay_nan(tmp_path):
    wrapper = dict(
        type='bevfusion_plugin.AccumulativeAmpOptimWrapper', dtype='float32', max_bad_windows=3, optimizer=dict(type='SGD', lr=1e-3)
    )
    with pytest.raises(FloatingPointError, match='3 windows in a row'):
        scripted_run(tmp_path, [GOOD] * 16 + [NAN] * 8, dict(action='stop', **QUICK), optim_wrapper=wrapper).train()


def test_a_run_that_recovers_makes_its_report_history(tmp_path):
    runner = scripted_run(tmp_path, [GOOD] * 16 + [BAD] * 12 + [GOOD] * 20, QUICK)
    runner.train()
    seen = report(tmp_path)
    # The median of 6 comes down with the fourth good update.
    assert (seen['lost'], seen['over']) == (True, 16 + 12 + 4)
    assert seen['update'] < seen['over'] and len(seen['reasons']) == 2


def test_a_divergence_that_settles_at_a_new_level_is_not_over(tmp_path):
    scripted_run(tmp_path, [GOOD] * 16 + [BAD] * 80, QUICK).train()
    assert 'over' not in report(tmp_path)


def test_a_second_divergence_is_an_alarm_again(tmp_path):
    scripted_run(tmp_path, [GOOD] * 16 + [BAD] * 12 + [GOOD] * 16 + [BAD] * 12, QUICK).train()
    assert report(tmp_path)['update'] > 16 + 12 + 16 and 'over' not in report(tmp_path)


def test_a_resumed_run_that_comes_past_the_divergence_makes_it_history(tmp_path):
    hook = dict(action='stop', **QUICK)
    with pytest.raises(TrainingDiverged):
        scripted_run(tmp_path, [GOOD] * 17 + [BAD] * 23, hook).train()
    stopped = report(tmp_path)
    before_it = 4 * ((stopped['update'] - 1) // 4)
    scripted_run(tmp_path, [GOOD] * before_it, hook, start=16, resume=True).train()
    assert report(tmp_path) == stopped, 'not there yet'
    scripted_run(tmp_path, [GOOD] * 40, hook, start=before_it, resume=True).train()
    assert report(tmp_path) == dict(stopped, over=stopped['update'] + 1)


def test_a_resumed_run_that_diverges_again_reports_anew(tmp_path):
    hook = dict(action='stop', **QUICK)
    script = [GOOD] * 17 + [BAD] * 43
    with pytest.raises(TrainingDiverged):
        scripted_run(tmp_path, script, hook).train()
    first = report(tmp_path)
    with pytest.raises(TrainingDiverged):
        scripted_run(tmp_path, [GOOD] * 20 + [BAD] * 40, hook, start=16, resume=True).train()
    assert report(tmp_path)['update'] == first['update'] + 3 and 'over' not in report(tmp_path)


@pytest.mark.parametrize('text', ['{"update": 7', '[]', '{}', '{"update": 7, "over": 9}'])
def test_a_report_that_is_damaged_or_over_is_not_taken_up(text, tmp_path):
    path = tmp_path / 'divergence.json'
    assert open_report(path) is None
    path.write_text(text)
    assert open_report(path) is None
    path.write_text('{"update": 7}')
    assert open_report(path) == dict(update=7)


def optimizer():
    return torch.optim.SGD(linear_net().parameters(), lr=0.1)


@pytest.mark.parametrize(
    'clip_grad, norm',
    [(None, None), (dict(max_norm=35, norm_type=2), 35), (dict(type='value', clip_value=0.5), None), (dict(max_norm=math.inf), None)],
)
def test_the_clip_is_read_off_the_wrapper(clip_grad, norm):
    assert clip_norm(OptimWrapper(optimizer(), clip_grad=clip_grad)) == norm


def test_a_gradient_scaler_leaves_out_an_update_whose_loss_is_no_number():
    assert update_applied(OptimWrapper(optimizer()))
    # MMEngine's AmpOptimWrapper cannot be built without a GPU.
    assert not update_applied(SimpleNamespace(loss_scaler=torch.amp.GradScaler('cpu')))
    assert update_applied(SimpleNamespace(loss_scaler=torch.amp.GradScaler('cpu', enabled=False)))
