from bevfusion_plugin.engine.checkpoints.kept_copy import copy_checkpoint, copy_name


def test_a_copy_is_made_anew_only_when_the_checkpoint_changed(tmp_path):
    source, target = tmp_path / 'latest.pth', tmp_path / 'last_good_latest.pth'
    source.write_text('first')
    copy_checkpoint(source, target)
    inode = target.stat().st_ino
    written = target.stat().st_ctime_ns
    copy_checkpoint(source, target)
    assert (target.stat().st_ino, target.stat().st_ctime_ns) == (inode, written)
    source.write_text('second, in place')
    assert target.read_text() == 'first', 'a copy, not a link'
    copy_checkpoint(source, target)
    assert target.read_text() == 'second, in place'


def test_only_local_originals_are_copied():
    assert copy_name('work_dirs/x/epoch_3.pth') == 'work_dirs/x/last_good_epoch_3.pth'
    assert copy_name('work_dirs/x/last_good_epoch_3.pth') is None
    assert copy_name('s3://bucket/epoch_3.pth') is None
    assert copy_name(None) is None
