import os
import pickle
from collections import OrderedDict

import numpy as np
import pytest

from bevfusion_plugin.doctor.reading.plain_pickle import NotPlain, read_plain


class Hostile:
    """Runs a command when it is read."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize('protocol', range(pickle.HIGHEST_PROTOCOL + 1))
def test_data_is_read_as_pickle_reads_it(tmp_path, protocol):
    content = dict(
        data_list=[
            dict(
                token='a',
                box=np.arange(7.0),
                valid=np.bool_(True),
                id=np.int64(3),
                names=np.array(['car', 'bus']),
                matrix=np.asfortranarray(np.eye(4, dtype=np.float32)),
                raw=b'\x00\xff',
                pair=(1, {2}),
            )
        ],
        metainfo=OrderedDict(version='v1.0'),
    )
    path = tmp_path / 'infos.pkl'
    path.write_bytes(pickle.dumps(content, protocol))
    np.testing.assert_equal(read_plain(path), content)


def test_code_is_named_and_not_run(tmp_path):
    path, trace = tmp_path / 'infos.pkl', tmp_path / 'it ran'
    path.write_bytes(pickle.dumps(dict(data_list=[Hostile(f'touch "{trace}"')])))
    with pytest.raises(NotPlain, match='names posix.system, which reading it would call'):
        read_plain(path)
    assert not trace.exists()
