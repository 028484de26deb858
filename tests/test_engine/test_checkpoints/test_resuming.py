import pytest
import torch

from bevfusion_plugin.engine.checkpoints.checked_loading import BrokenCheckpoint
from bevfusion_plugin.engine.checkpoints.resuming import newest_whole


def write(path, iteration, **more):
    path.parent.mkdir(exist_ok=True)
    content = dict(meta=dict(epoch=1, iter=iteration), state_dict={}, optimizer={}, message_hub={})
    torch.save({**content, **more}, path)
    return path


def test_an_empty_work_dir_has_none(tmp_path):
    assert newest_whole(tmp_path) == (None, []) and newest_whole(tmp_path / 'not there') == (None, [])


def test_how_far_a_checkpoint_is_counts_not_its_name_or_age(tmp_path):
    newest = write(tmp_path / 'iter_100.pth', 100)
    write(tmp_path / 'epoch_9.pth', 90)
    write(tmp_path / 'best_acc_epoch_10.pth', 120)
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_9.pth'))
    assert newest_whole(tmp_path) == (newest, [])


def test_the_good_copy_of_a_diverged_training_comes_first_while_it_is_named(tmp_path):
    write(tmp_path / 'epoch_5.pth', 50)
    copy = write(tmp_path / 'last_good_epoch_3.pth', 30)
    assert newest_whole(tmp_path)[0].name == 'epoch_5.pth'
    (tmp_path / 'last_checkpoint').write_text(f'elsewhere/{copy.name}')
    assert newest_whole(tmp_path) == (copy, [])


def test_an_original_comes_before_its_copy_and_the_copy_before_older_ones(tmp_path):
    write(tmp_path / 'last_good_epoch_3.pth', 30)
    write(tmp_path / 'epoch_3.pth', 30)
    write(tmp_path / 'epoch_2.pth', 20)
    assert newest_whole(tmp_path)[0].name == 'epoch_3.pth'
    (tmp_path / 'epoch_3.pth').write_bytes(b'PK')
    assert newest_whole(tmp_path)[0].name == 'last_good_epoch_3.pth'


def test_checkpoints_in_another_folder_are_found_by_last_checkpoint(tmp_path):
    older, newest = write(tmp_path / 'out' / 'epoch_1.pth', 8), write(tmp_path / 'out' / 'epoch_2.pth', 16)
    (tmp_path / 'last_checkpoint').write_text(str(older))
    assert newest_whole(tmp_path)[0] == newest


def test_a_copied_work_dir_does_not_reach_for_the_original(tmp_path):
    original = write(tmp_path / 'original' / 'epoch_2.pth', 16)
    copied = write(tmp_path / 'copy' / 'epoch_1.pth', 8)
    (tmp_path / 'copy' / 'last_checkpoint').write_text(str(original))
    assert newest_whole(tmp_path / 'copy')[0] == copied


def test_checkpoints_that_are_gone_are_no_reason_to_begin_anew(tmp_path):
    (tmp_path / 'last_checkpoint').write_text('gone/epoch_2.pth')
    with pytest.raises(BrokenCheckpoint, match='last_checkpoint names gone/epoch_2.pth, which is not there'):
        newest_whole(tmp_path)


def test_the_old_format_of_torch_is_whole_too(tmp_path):
    content = dict(meta=dict(epoch=1, iter=8), state_dict=dict(x=torch.ones(2)), optimizer={}, message_hub={})
    torch.save(content, tmp_path / 'epoch_1.pth', _use_new_zipfile_serialization=False)
    assert newest_whole(tmp_path)[0] == tmp_path / 'epoch_1.pth'
