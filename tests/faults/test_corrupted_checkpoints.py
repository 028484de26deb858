"""Corrupted checkpoints: none loads without a word, each names its file, and a resume falls back to the one before."""

import io
import os
import pickle
import random
import shutil

import pytest
import torch
from mmengine.runner.checkpoint import CheckpointLoader

from bevfusion_plugin.engine.checkpoints.checked_loading import BrokenCheckpoint, tensors_in
from bevfusion_plugin.engine.checkpoints.resuming import newest_whole
from bevfusion_plugin.engine.checkpoints.whole_file import manifest_path

SIZES = [0, 1, 2, 100, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, -1000, -1]  # what is left: bytes, a share, or all but so many
FLIPS = [random.Random(3).random() for _ in range(24)] + [0.0, 0.9999]
BLOCKS = [0.0, 0.3, 0.6, 0.95]


class Hostile:
    """Pickles as a call of ``function``."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def truncated(content, size):
    return content[: int(size * len(content)) if 0 < size < 1 else size]


def flipped(content, place):
    index = int(place * (len(content) - 1))
    return content[:index] + bytes([content[index] ^ 0x10]) + content[index + 1 :]


def overwritten(content, place):
    index = int(place * len(content))
    return content[:index] + bytes(b ^ 0xFF for b in content[index : index + 512]) + content[index + 512 :]


DAMAGES = [(damage, value) for damage, values in ((truncated, SIZES), (flipped, FLIPS), (overwritten, BLOCKS)) for value in values]
NAMES = [f'{function.__name__}-{value:.4g}' for function, value in DAMAGES]


def saved(content, **options):
    with io.BytesIO() as file:
        torch.save(content, file, **options)
        return file.getvalue()


def assert_passed_over(folder, reason=''):
    path, passed_over = newest_whole(folder)
    assert path == folder / 'epoch_2.pth' and len(passed_over) == 1
    assert str(folder / 'epoch_3.pth') in passed_over[0] and reason in passed_over[0]


def assert_refused(path, reason=''):
    with pytest.raises(BrokenCheckpoint, match=reason) as error:
        CheckpointLoader.load_checkpoint(str(path), map_location='cpu')
    assert str(path) in str(error.value)


@pytest.mark.parametrize('damage, value', DAMAGES, ids=NAMES)
def test_a_damaged_file_is_refused_by_name_and_passed_over(work_dir, damage, value):
    path = work_dir / 'epoch_3.pth'
    path.write_bytes(damage(path.read_bytes(), value))
    assert_refused(path)
    assert_passed_over(work_dir)


@pytest.mark.parametrize('damage, value', DAMAGES, ids=NAMES)
def test_without_a_manifest_a_damage_is_refused_or_touches_nothing_that_is_loaded(work_dir, damage, value):
    path = work_dir / 'epoch_3.pth'
    before = dict(tensors_in(torch.load(path, weights_only=True)))
    path.write_bytes(damage(path.read_bytes(), value))
    manifest_path(path).unlink()
    if newest_whole(work_dir)[0] == path:
        after = dict(tensors_in(CheckpointLoader.load_checkpoint(str(path), map_location='cpu')))
        assert damage is flipped and before.keys() == after.keys()
        assert all(torch.equal(after[name], value) for name, value in before.items())
    else:
        assert_refused(path)
        assert_passed_over(work_dir)


OTHER_TYPES = dict(
    text=b'a log line\n' * 50,
    picture=b'\xff\xd8\xff\xe0' + bytes(2000),
    archive=b'PK\x05\x06' + bytes(18),
    number=saved(3),
    tensors=saved([torch.ones(2)]),
    tensor=saved(torch.ones(3)),
    plain_pickle=pickle.dumps([1, 2]),
)


@pytest.mark.parametrize('kind', OTHER_TYPES)
def test_a_file_of_another_type_is_refused_by_name_and_passed_over(work_dir, kind):
    path = work_dir / 'epoch_3.pth'
    path.write_bytes(OTHER_TYPES[kind])
    manifest_path(path).unlink()
    assert_refused(path)
    assert_passed_over(work_dir)


@pytest.mark.parametrize(
    'write',
    [saved, lambda content: saved(content, _use_new_zipfile_serialization=False), pickle.dumps],
    ids=['zip', 'torch before 1.6', 'pickle'],
)
@pytest.mark.parametrize('function', [os.system, eval, getattr], ids=lambda function: function.__name__)
def test_a_pickle_that_runs_code_is_refused_and_nothing_of_it_is_run(work_dir, tmp_path, write, function):
    """The script would leave a file behind."""
    path, trace = work_dir / 'epoch_3.pth', tmp_path / 'run'
    arguments = {os.system: (f'touch {trace}',), eval: (f'open({str(trace)!r}, "w")',), getattr: (torch.Tensor, 'data')}[function]
    path.write_bytes(write(dict(state_dict={}, meta=dict(iter=24, epoch=3, cfg=Hostile(function, *arguments)))))
    manifest_path(path).unlink()
    assert_refused(path)
    assert_passed_over(work_dir)
    assert not trace.exists()
    if function is not getattr and write is not pickle.dumps:
        assert_refused(path, rf'names (\w+\.)?{function.__name__}, and loading it could run code')


def test_the_hostile_pickle_does_run_code_where_it_is_trusted(tmp_path):
    (tmp_path / 'x.pth').write_bytes(saved(Hostile(os.system, f'touch {tmp_path / "run"}')))
    torch.load(tmp_path / 'x.pth', weights_only=False)
    assert (tmp_path / 'run').exists()


@pytest.mark.parametrize('part', ['optimizer', 'meta', 'message_hub'])
def test_a_file_without_what_a_training_needs_is_passed_over(work_dir, part):
    content = torch.load(work_dir / 'epoch_3.pth', weights_only=True)
    del content[part]
    (work_dir / 'epoch_3.pth').write_bytes(saved(content))
    manifest_path(work_dir / 'epoch_3.pth').unlink()
    assert_passed_over(work_dir, f'lacks {part}')


@pytest.mark.parametrize('part', ['state_dict', 'ema_state_dict', 'optimizer'])
def test_nan_is_refused_by_the_tensors_name(work_dir, part):
    path = work_dir / 'epoch_3.pth'
    content = torch.load(path, weights_only=True)
    name, value = next((name, value) for name, value in tensors_in(content[part]) if value.is_floating_point())
    value.view(-1)[0] = torch.nan
    path.write_bytes(saved(content))
    manifest_path(path).unlink()
    assert_refused(path, f'holds NaN in 1 tensors, the first {part}.{name}')
    assert_passed_over(work_dir)


def test_a_resume_past_a_truncated_file_ends_as_the_uninterrupted_run(train, work_dir, assert_same_end):
    path = work_dir / 'epoch_3.pth'
    path.write_bytes(path.read_bytes()[:1000])
    assert train(work_dir, '--resume') == 0
    assert_same_end(work_dir)


@pytest.mark.parametrize('pointer', [None, '', '\0' * 40, 'gone/epoch_7.pth'], ids=['missing', 'empty', 'zeros', 'of a gone folder'])
def test_a_resume_needs_no_last_checkpoint(train, work_dir, pointer, assert_same_end):
    (work_dir / 'last_checkpoint').unlink()
    if pointer is not None:
        (work_dir / 'last_checkpoint').write_text(pointer)
    (work_dir / 'epoch_3.pth').unlink()
    assert train(work_dir, '--resume') == 0
    assert_same_end(work_dir)


def test_a_moved_work_dir_resumes_also_where_the_config_says_so(train, work_dir, tmp_path, assert_same_end):
    (work_dir / 'epoch_3.pth').unlink()
    (work_dir / 'last_checkpoint').write_text(str(work_dir / 'epoch_2.pth'))
    moved = shutil.move(work_dir, tmp_path / 'moved')
    assert train(moved, resume=True) == 0
    assert_same_end(tmp_path / 'moved')


def test_no_run_begins_anew_over_checkpoints_that_are_all_broken(train, work_dir, capsys):
    for path in work_dir.glob('*.pth'):
        path.write_bytes(b'')
    assert train(work_dir, '--resume') == 2
    text = capsys.readouterr().err
    assert all(f'{work_dir}/epoch_{epoch}.pth is empty' in text for epoch in (1, 2, 3)) and 'begin anew' in text


def test_a_broken_file_that_was_asked_for_is_refused_by_every_tool(train, work_dir, capsys):
    path = work_dir / 'epoch_3.pth'
    path.write_bytes(path.read_bytes()[:-7])
    for arguments, options in ((['--resume', str(path)], {}), ([], dict(load_from=path))):
        assert train(work_dir / 'other', *arguments, **options) == 2
        assert f'the checkpoint {path} has ' in capsys.readouterr().err
