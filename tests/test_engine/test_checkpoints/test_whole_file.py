import errno
import hashlib
import json

import pytest

from bevfusion_plugin.engine.checkpoints import whole_file
from bevfusion_plugin.engine.checkpoints.whole_file import CheckpointNotWritten, file_fault, remove_whole, write_whole


def test_a_file_has_its_size_and_sum_beside_it_and_nothing_else(tmp_path):
    write_whole(tmp_path / 'new' / 'x.pth', b'abc')
    assert {path.name: path.read_bytes() for path in (tmp_path / 'new').iterdir()} == {
        'x.pth': b'abc',
        'x.pth.json': json.dumps(dict(size=3, sha256=hashlib.sha256(b'abc').hexdigest())).encode(),
    }
    assert file_fault(tmp_path / 'new' / 'x.pth') is None
    remove_whole(tmp_path / 'new' / 'x.pth')
    assert not list((tmp_path / 'new').iterdir())


@pytest.mark.parametrize(
    'content, fault', [(b'', 'is empty'), (b'ab', 'has 2 bytes where 3 were written'), (b'abd', 'is not as it was written')]
)
def test_another_content_is_named(tmp_path, content, fault):
    path = tmp_path / 'x.pth'
    write_whole(path, b'abc')
    path.write_bytes(content)
    assert file_fault(path).startswith(fault)


@pytest.mark.parametrize('manifest', ['', '[]', '{"size": 3}', 'no json'])
def test_a_manifest_that_says_nothing_denies_nothing(tmp_path, manifest):
    write_whole(tmp_path / 'x.pth', b'abc')
    (tmp_path / 'x.pth.json').write_text(manifest)
    assert file_fault(tmp_path / 'x.pth') is None


@pytest.mark.parametrize('code', [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_disk_that_does_not_take_it_leaves_the_old_file_and_is_named(tmp_path, monkeypatch, code):
    path = tmp_path / 'x.pth'
    write_whole(path, b'old')

    def refuse(handle):
        raise OSError(code, 'the disk says no')

    monkeypatch.setattr(whole_file.os, 'fsync', refuse)
    with pytest.raises(CheckpointNotWritten, match=r'x.pth \(6 bytes\) could not be written: the disk says no; [\d,]+ bytes'):
        write_whole(path, b'longer')
    assert path.read_bytes() == b'old' and file_fault(path) is None and len(list(tmp_path.iterdir())) == 2


def test_a_file_system_that_cannot_flush_folders_is_enough(tmp_path, monkeypatch):
    def refuse(path, flags):
        raise OSError(errno.EINVAL, 'no handles of folders')

    monkeypatch.setattr(whole_file.os, 'open', refuse)
    write_whole(tmp_path / 'x.pth', b'abc')
    assert file_fault(tmp_path / 'x.pth') is None
