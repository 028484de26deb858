import json
from pathlib import Path

import pytest
import torch
from divergence_runs import DIVERGED, HEALTHY
from gloo_ranks import run_ranks
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapperDict
from scripted_losses import diverging_on_one_rank, scripted_run
from toy_training import logged

from bevfusion_plugin.engine.hooks.divergence_sentinel_hook import DivergenceSentinelHook, TrainingDiverged, WindowMeans, finite_or_text

QUICK = dict(patience=6, warmup=0)
GOOD, BAD = dict(loss=1.0, grad_norm=2.0), dict(loss=9.0, grad_norm=90.0)


def lines(log, interval=50):
    return [line for line in log for _ in range(interval)]


def report(folder):
    return json.loads((folder / 'divergence.json').read_text())


def checkpoints(folder):
    return sorted(path.name for path in folder.glob('*.pth'))


def test_the_published_run_is_stopped_within_500_iterations(tmp_path):
    script = lines(HEALTHY[:2] * 2 + DIVERGED[:2] * 5)
    runner = scripted_run(tmp_path, script, dict(action='stop', matched_ious=None, warmup=100), default_hooks=dict(checkpoint=None))
    with pytest.raises(TrainingDiverged, match='the loss, .* above 2 x its running median of 2.8'):
        runner.train()
    assert 200 + 100 <= runner.iter < 200 + 500
    assert report(tmp_path)['update'] == runner.optim_wrapper.updates


def test_a_healthy_run_trains_on_and_leaves_nothing_behind(tmp_path):
    script = lines(HEALTHY[:2] * 2)
    script[150] = dict(loss=90.0, grad_norm=900.0, matched_ious=0.0)
    runner = scripted_run(tmp_path, script, dict(action='stop', warmup=100))
    runner.train()
    assert runner.iter == 200
    assert not (tmp_path / 'divergence.json').exists()
    assert checkpoints(tmp_path) == ['epoch_50.pth']


def test_the_report_says_what_was_seen(tmp_path):
    script = [GOOD] * 16 + lines(DIVERGED[:2], 12)
    with pytest.raises(TrainingDiverged) as stopped:
        scripted_run(tmp_path, script, dict(action='stop', **QUICK, grad_norm=25.0, grad_norm_ratio=None, matched_ious=None)).train()
    seen = report(tmp_path)
    assert list(seen) == ['update', 'lost', 'reasons', 'values', 'checkpoint']
    assert seen['lost']
    assert seen['reasons'] == [
        'the loss, 8.525, has been above 2 x its running median of 1 for 6 updates',
        'the gradient norm, 58.91, has been above 25 for 6 updates',
    ]
    assert seen['values'] == pytest.approx(dict(loss=8.5249, matched_ious=0.0103, grad_norm=58.9075, skipped_updates=0, loss_median=1.0))
    for part in (f'update {seen["update"]}', *seen['reasons'], seen['checkpoint'], 'divergence.json', 'lower learning rate'):
        assert part in str(stopped.value)


def test_on_stop_the_last_good_checkpoint_is_kept_and_resumed_from(tmp_path):
    # Good for 4 epochs of 4 and in iteration 17. The suspicion begins in epoch 5, the median of 12 follows 6 updates later, and
    # the alarm comes after 12 more, in epoch 9: after four spoiled checkpoints.
    script = [GOOD] * 17 + [BAD] * 23
    hook = dict(action='stop', patience=12, warmup=0)
    with pytest.raises(TrainingDiverged, match='last_good_epoch_4.pth with a lower learning rate'):
        scripted_run(tmp_path, script, hook).train()
    kept = str(tmp_path / 'last_good_epoch_4.pth')
    assert report(tmp_path)['checkpoint'] == kept
    assert checkpoints(tmp_path)[-1] == 'last_good_epoch_4.pth'
    assert len(checkpoints(tmp_path)) == 2, 'CheckpointHook has removed epoch_4.pth and kept a spoiled one'
    assert torch.load(kept)['meta']['epoch'] == 4

    resumed = scripted_run(tmp_path, [GOOD] * 40, hook, start=16, resume=True)
    starts = []
    resumed.register_hook(EpochRecorder(starts))
    resumed.train()
    assert starts == list(range(4, 10))
    assert (tmp_path / 'last_good_epoch_4.pth').exists(), 'it was resumed from'


class EpochRecorder(Hook):
    def __init__(self, starts):
        self.starts = starts

    def before_train_epoch(self, runner):
        self.starts.append(runner.epoch)


def test_nothing_is_saved_after_the_alarm(tmp_path):
    hooks = dict(checkpoint=dict(type='CheckpointHook', interval=1, by_epoch=False, max_keep_ckpts=2))
    runner = scripted_run(tmp_path, [GOOD] * 12 + [BAD] * 12, dict(action='stop', **QUICK), default_hooks=hooks)
    with pytest.raises(TrainingDiverged):
        runner.train()
    names = checkpoints(tmp_path)
    assert f'iter_{runner.iter}.pth' in names, 'of the iteration before'
    assert f'iter_{runner.iter + 1}.pth' not in names
    assert (tmp_path / 'last_checkpoint').read_text() == report(tmp_path)['checkpoint']


def test_a_warning_is_given_once_and_the_training_goes_on(tmp_path):
    runner = scripted_run(tmp_path, [GOOD] * 12 + [BAD] * 12, QUICK)
    runner.train()
    assert runner.iter == 24
    assert logged(runner).count('the training diverges') == 1
    assert report(tmp_path)['checkpoint'].endswith('last_good_epoch_3.pth')
    assert checkpoints(tmp_path) == ['epoch_6.pth', 'last_good_epoch_3.pth']
    assert (tmp_path / 'last_checkpoint').read_text().endswith('epoch_6.pth')


@pytest.mark.parametrize('action', ['warn', 'stop'])
def test_other_hooks_are_told_when_the_report_is_written(action, tmp_path):
    told = []
    runner = scripted_run(tmp_path, [GOOD] * 12 + [BAD] * 12, dict(QUICK, action=action))
    runner.register_hook(Listener(told))
    try:
        runner.train()
    except TrainingDiverged:
        pass
    assert told == [report(tmp_path)['update']]


class Listener(Hook):
    def __init__(self, told):
        self.told = told

    def after_divergence(self, runner):
        self.told.append(json.loads((Path(runner.work_dir) / 'divergence.json').read_text())['update'])


def test_a_copy_goes_again_when_the_training_recovers(tmp_path):
    script = [GOOD] * 13 + [BAD] * 7 + [GOOD] * 20
    seen = set()
    runner = scripted_run(tmp_path, script, dict(patience=12, warmup=0))
    runner.register_hook(CopyRecorder(tmp_path, seen), priority='LOWEST')
    runner.train()
    assert seen == {'last_good_epoch_3.pth'}
    assert checkpoints(tmp_path) == ['epoch_10.pth']
    assert not (tmp_path / 'divergence.json').exists()


class CopyRecorder(Hook):
    def __init__(self, folder, seen):
        self.folder, self.seen = folder, seen

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.seen.update(name for name in checkpoints(self.folder) if name.startswith('last_good'))


def test_without_a_checkpoint_it_says_so(tmp_path):
    with pytest.raises(TrainingDiverged, match='no checkpoint was saved before; start again with a lower learning rate'):
        scripted_run(tmp_path, [GOOD] * 8 + [BAD] * 12, dict(action='stop', **QUICK), default_hooks=dict(checkpoint=None)).train()
    assert report(tmp_path)['checkpoint'] is None


def test_a_nan_stops_at_once_and_the_report_stays_json(tmp_path):
    with pytest.raises(TrainingDiverged, match=r'update 6 \(iteration 6\): the loss is nan'):
        scripted_run(tmp_path, [GOOD] * 5 + [dict(loss=float('nan'))] * 3, dict(action='stop')).train()
    assert report(tmp_path)['values']['loss'] == 'nan'
    assert report(tmp_path)['checkpoint'].endswith('last_good_epoch_1.pth')


def test_a_window_is_one_judgement_of_its_mean_loss(tmp_path):
    script = [dict(loss=loss, grad_norm=norm) for loss, norm in [(1.0, 2.0), (3.0, 2.0)] * 12 + [(1.0, 90.0), (9.0, 90.0)] * 12]
    runner = scripted_run(tmp_path, script, dict(action='stop', patience=4, warmup=0), accumulative_counts=2)
    with pytest.raises(TrainingDiverged, match='the loss, 5, has been above 2 x its running median of 2 for 4 updates'):
        runner.train()
    assert report(tmp_path)['update'] == runner.optim_wrapper.updates == 12 + 2 + 4  # the loss is the later of the two


def test_it_counts_updates_itself_with_a_wrapper_that_does_not(tmp_path):
    wrapper = dict(type='OptimWrapper', accumulative_counts=2, clip_grad=dict(max_norm=35), optimizer=dict(type='SGD', lr=1e-3))
    script = [GOOD] * 12 + [dict(loss=9.0, grad_norm=99.0)] * 20
    with pytest.raises(TrainingDiverged, match='the gradient norm, 99'):
        scripted_run(tmp_path, script, dict(action='stop', patience=4, warmup=0), optim_wrapper=wrapper).train()
    assert report(tmp_path)['update'] == 6 + 2 + 3  # windows of two; patience and smoothing are 4
    assert 'skipped_updates' not in report(tmp_path)['values']


def test_resuming_in_mid_streak_stops_where_the_uninterrupted_run_does(tmp_path):
    script = [GOOD] * 18 + [BAD] * 22
    hook = dict(action='stop', patience=12, warmup=0)
    keep_all = dict(checkpoint=dict(type='CheckpointHook', interval=1))
    whole = scripted_run(tmp_path / 'whole', script, hook, default_hooks=keep_all)
    with pytest.raises(TrainingDiverged):
        whole.train()
    options = dict(default_hooks=keep_all, load_from=str(tmp_path / 'whole' / 'epoch_8.pth'))
    resumed = scripted_run(tmp_path / 'resumed', script, hook, start=32, resume=True, **options)
    with pytest.raises(TrainingDiverged):
        resumed.train()
    assert 32 < resumed.iter == whole.iter < 40
    assert report(tmp_path / 'resumed') == report(tmp_path / 'whole')


def test_loaded_weights_begin_a_history_of_their_own(tmp_path):
    script = [GOOD] * 18 + [BAD] * 14
    hook = dict(patience=12, warmup=0)
    scripted_run(tmp_path / 'first', script, hook).train()
    loaded = scripted_run(tmp_path / 'second', [BAD] * 8, dict(hook, action='stop'), load_from=str(tmp_path / 'first' / 'epoch_8.pth'))
    loaded.train()  # 8 bad updates of its own, not 14 + 8
    assert loaded.iter == 8


def test_a_new_run_clears_the_report_of_another_in_its_folder(tmp_path):
    (tmp_path / 'divergence.json').write_text('{}')
    scripted_run(tmp_path, [GOOD] * 4, {}).train()
    assert not (tmp_path / 'divergence.json').exists()


def test_a_rank_that_diverges_stops_all_at_the_same_update(tmp_path):
    ranks = run_ranks(2, diverging_on_one_rank, str(tmp_path))
    assert [result['iteration'] for result in ranks] == [12 + 2 + 3 - 1] * 2  # counted from 0; the mean of 1 and 9 is 5
    assert all('the loss, 5, has been above 2 x its running median of 1' in result['error'] for result in ranks)
    assert sorted(path.parent.name for path in tmp_path.rglob('divergence.json')) == ['rank0']
    assert all(result['written'] for result in ranks), 'a launcher ends every rank with the first that leaves'


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="action must be one of 'warn', 'stop', got 'halt'"):
        DivergenceSentinelHook(action='halt')
    with pytest.raises(ValueError, match='loss_ratio must lie between 1 and inf, got 0.5'):
        DivergenceSentinelHook(loss_ratio=0.5)


def test_several_optimizers_are_refused(tmp_path):
    runner = scripted_run(tmp_path, [GOOD] * 4, {})
    runner.optim_wrapper = OptimWrapperDict(one=runner.build_optim_wrapper(runner.optim_wrapper))
    with pytest.raises(ValueError, match='updates of several optimizers'):
        DivergenceSentinelHook().before_train(runner)


@pytest.mark.parametrize('outputs', [None, dict(loss_fit=1.0)])
def test_outputs_without_a_loss_are_refused_by_name(outputs):
    with pytest.raises(ValueError, match='needs the loss that train_step returns'):
        WindowMeans().add(outputs)


def test_numbers_that_json_does_not_know_become_text():
    assert finite_or_text(dict(a=1.0, b=float('inf'), c=None)) == dict(a=1.0, b='inf', c=None)
