"""tools/check_data.py: what it prints and how it ends."""

from __future__ import annotations

import shutil

import pytest
from tool_loading import TOOLS, load_tool

CONFIG = str(TOOLS.parent / 'configs' / 'bevfusion_demo.py')


@pytest.fixture
def root(tiny_nuscenes, tmp_path):
    shutil.copytree(tiny_nuscenes, tmp_path / 'set', ignore=shutil.ignore_patterns('maps', 'v1.0-mini'))
    return tmp_path / 'set'


def check(root, *arguments) -> int:
    return load_tool('check_data').main([CONFIG, *arguments, '--cfg-options', f'data_root={root}'])


def test_a_set_in_order_ends_with_0(root, capsys):
    assert check(root) == 0
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 2 and 'nuscenes_infos_train.pkl: 4 samples looked at, none bad' in printed[0] and '_val.pkl: 4' in printed[1]


def test_bad_samples_are_listed_and_end_with_1(root, capsys):
    damaged = sorted((root / 'samples' / 'CAM_BACK').iterdir())[2]
    damaged.write_bytes(damaged.read_bytes()[:500])
    assert check(root, '--split', 'val') == 1
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 2 and f'{damaged} cannot be decoded' in printed[0] and '4 samples looked at, 1 bad' in printed[1]
    assert check(root, '--limit', '2') == 0, 'it is the third'


@pytest.mark.parametrize(
    'arguments, message',
    [
        ([CONFIG, '--limit', '0'], '--limit must be >= 1, got 0'),
        (['no_such_config.py'], 'no_such_config.py'),
        ([CONFIG, '--cfg-options', 'data_root=/no/such/place'], '/no/such/place/nuscenes_infos_train.pkl'),
        ([CONFIG, '--split', 'test', '--cfg-options', 'test_dataloader=None'], 'has no data set in test_dataloader'),
        ([CONFIG, '--cfg-options', 'train_dataloader.dataset.dataset.type=NoSuch'], 'NoSuch cannot be built'),
    ],
)
def test_what_cannot_be_looked_at_ends_with_2(arguments, message, capsys):
    assert load_tool('check_data').main(arguments) == 2
    printed = capsys.readouterr()
    assert message in printed.err and 'Traceback' not in printed.err
