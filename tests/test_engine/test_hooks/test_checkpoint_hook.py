import json
import shutil
from pathlib import Path

import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from toy_training import toy_runner, validation_loader

from bevfusion_plugin.engine.checkpoints.checked_loading import BrokenCheckpoint
from bevfusion_plugin.engine.checkpoints.file_backend import WholeFileBackend
from bevfusion_plugin.engine.checkpoints.whole_file import file_fault
from bevfusion_plugin.engine.hooks.checkpoint_hook import CheckpointHook


class ScriptedMetric(BaseMetric):
    """Gives the next of ``scores`` at every validation, under two names."""

    def __init__(self, scores, **kwargs):
        super().__init__(**kwargs)
        self.scores = list(scores)

    def process(self, data_batch, data_samples):
        self.results.append(1)

    def compute_metrics(self, results):
        score = self.scores.pop(0)
        return dict(acc=score, other_acc=-score)


def train(folder, epochs=3, hook=None, scores=None, **overrides):
    validation = (
        {}
        if scores is None
        else dict(val_cfg=dict(), val_evaluator=dict(type=ScriptedMetric, scores=scores), val_dataloader=validation_loader())
    )
    checkpoint = dict(dict(type='bevfusion_plugin.CheckpointHook', interval=1), **(hook or {}))
    runner = toy_runner(
        folder,
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        **validation,
        **dict(dict(default_hooks=dict(checkpoint=checkpoint)), **overrides),
    )
    runner.train()
    return runner


def names(folder):
    return sorted(path.name for path in folder.glob('*.pth*'))


def whole(*files):
    return sorted([*files, *(f'{file}.json' for file in files)])


@pytest.mark.parametrize('keep, epochs', [(1, [3]), (2, [2, 3]), (-1, [1, 2, 3])])
def test_every_checkpoint_has_its_manifest_and_old_ones_go_with_theirs(tmp_path, keep, epochs):
    train(tmp_path, hook=dict(max_keep_ckpts=keep))
    assert names(tmp_path) == whole(*(f'epoch_{epoch}.pth' for epoch in epochs))
    assert all(file_fault(path) is None for path in tmp_path.glob('*.pth'))
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'epoch_3.pth')
    kept = torch.load(tmp_path / 'epoch_3.pth')['message_hub']['runtime_info'].get('keep_ckpt_ids')
    assert kept == (epochs if keep > 0 else None)


def test_an_old_checkpoint_goes_when_the_new_one_is_there(tmp_path, monkeypatch):
    seen = []
    remove = WholeFileBackend.remove
    monkeypatch.setattr(WholeFileBackend, 'remove', lambda self, path: (seen.append(names(tmp_path)), remove(self, path)))
    train(tmp_path, hook=dict(max_keep_ckpts=1))
    assert seen == [whole('epoch_1.pth', 'epoch_2.pth'), whole('epoch_2.pth', 'epoch_3.pth')]


def test_iterations_and_folders_elsewhere_are_kept_so_too(tmp_path):
    train(tmp_path / 'work', 2, dict(by_epoch=False, interval=4, max_keep_ckpts=2, out_dir=str(tmp_path / 'out')))
    assert names(tmp_path / 'out' / 'work') == whole('iter_12.pth', 'iter_16.pth')


def test_a_lowered_max_keep_ckpts_leaves_the_newest(tmp_path):
    train(tmp_path, 2, dict(max_keep_ckpts=2))
    train(tmp_path, 3, dict(max_keep_ckpts=1), resume=True)
    assert names(tmp_path) == whole('epoch_3.pth')


@pytest.mark.parametrize(
    'save_best, scores, best',
    [
        ('acc', [1, 3, 2], ['best_acc_epoch_2.pth']),
        ('auto', [1, 2, 3], ['best_acc_epoch_3.pth']),
        (['acc', 'other_acc'], [1, 3, 2], ['best_acc_epoch_2.pth', 'best_other_acc_epoch_1.pth']),
    ],
)
def test_the_best_before_goes_when_the_new_one_is_there(tmp_path, monkeypatch, save_best, scores, best):
    seen = []
    remove = WholeFileBackend.remove
    monkeypatch.setattr(WholeFileBackend, 'remove', lambda self, path: (seen.append(names(tmp_path)), remove(self, path)))
    train(tmp_path, hook=dict(save_best=save_best, rule='greater'), scores=scores)
    assert names(tmp_path) == whole('epoch_1.pth', 'epoch_2.pth', 'epoch_3.pth', *best)
    assert all({'best_acc_epoch_1.pth', 'best_acc_epoch_2.pth'} <= set(files) for files in seen[:1]) and seen


def test_a_copied_run_does_not_delete_the_best_of_the_original(tmp_path):
    train(tmp_path / 'a', 2, dict(save_best='acc', rule='greater'), scores=[1, 2])
    shutil.copytree(tmp_path / 'a', tmp_path / 'b')
    train(tmp_path / 'b', 3, dict(save_best='acc', rule='greater'), scores=[3], resume=True)
    assert 'best_acc_epoch_2.pth' in names(tmp_path / 'a')
    assert [name for name in names(tmp_path / 'b') if name.startswith('best')] == whole('best_acc_epoch_3.pth')


def test_a_run_resumed_by_its_config_goes_on_from_the_newest_whole_one(tmp_path):
    whole_run = train(tmp_path / 'whole')
    train(tmp_path / 'work', 2)
    (tmp_path / 'work' / 'last_checkpoint').write_text('')
    (tmp_path / 'work' / 'epoch_7.pth').write_bytes(b'PK')
    resumed = train(tmp_path / 'work', resume=True)
    assert resumed._load_from == str(tmp_path / 'work' / 'epoch_2.pth')
    for name, value in whole_run.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name


def test_a_run_with_nothing_whole_does_not_begin_anew(tmp_path):
    (tmp_path / 'epoch_1.pth').write_bytes(b'PK')
    with pytest.raises(BrokenCheckpoint, match='epoch_1.pth is truncated'):
        train(tmp_path, resume=True)


def test_what_a_killed_run_left_unfinished_is_cleared_away(tmp_path):
    (tmp_path / 'epoch_2.pth.unfinished').touch()
    train(tmp_path, 1)
    assert names(tmp_path) == whole('epoch_1.pth')


def test_storage_of_ones_own_is_written_as_mmengine_does(tmp_path):
    train(tmp_path, 2, dict(backend_args=dict(backend='local'), max_keep_ckpts=1))
    assert names(tmp_path) == ['epoch_2.pth']


def test_a_manifest_is_plain_json(tmp_path):
    train(tmp_path, 1)
    assert json.loads((tmp_path / 'epoch_1.pth.json').read_text())['size'] == (tmp_path / 'epoch_1.pth').stat().st_size


def test_before_a_validation_everything_is_saved(tmp_path):
    """While it runs a signal ends the process at once; with one checkpoint in two epochs an epoch would be lost."""
    seen = []
    train(
        tmp_path,
        hook=dict(interval=2),
        scores=[1.0, 2.0, 3.0],
        custom_hooks=[dict(type='bevfusion_plugin.WindowHook'), SavedAtValidation(seen)],
    )
    assert seen == [8, 16, 24], 'iterations of the newest checkpoint, at each validation'
    assert torch.load(tmp_path / 'inside_epoch.pth')['meta']['iter'] == 8


class SavedAtValidation(Hook):
    def __init__(self, seen):
        self.seen = seen

    def before_val_epoch(self, runner):
        self.seen.append(max(torch.load(path)['meta']['iter'] for path in Path(runner.work_dir).glob('*.pth')))


def test_minutes_between_checkpoints_must_be_positive():
    for minutes in (0, -1):
        with pytest.raises(ValueError, match=f'save_every must be > 0, got {minutes}'):
            CheckpointHook(save_every=minutes)
