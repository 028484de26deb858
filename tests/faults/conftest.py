import itertools
import shutil

import pytest
import torch
from faulty_trainings import CONFIG
from tool_loading import load_tool

STARTS = itertools.count()  # MMEngine hands out its message hub by experiment name and second


@pytest.fixture(scope='module')
def train(tmp_path_factory):
    """A function (work dir, arguments) that trains the toy through tools/train.py in this process and gives the status."""
    config = tmp_path_factory.mktemp('config') / 'toy.py'
    config.write_text(CONFIG)
    tool = load_tool('train')

    def run(work_dir, *arguments, **options):
        options = dict(options, experiment_name=f'fault_{next(STARTS)}')
        return tool.main(
            [str(config), '--work-dir', str(work_dir), *arguments, '--cfg-options', *(f'{key}={value}' for key, value in options.items())]
        )

    run.config = config
    return run


@pytest.fixture(scope='module')
def whole_run(train, tmp_path_factory):
    """The work dir of an uninterrupted run, with all three checkpoints."""
    folder = tmp_path_factory.mktemp('whole') / 'work'
    assert train(folder, '--seed', '0', **{'default_hooks.checkpoint.max_keep_ckpts': 3}) == 0
    return folder


@pytest.fixture
def work_dir(whole_run, tmp_path):
    """A copy of it that a test may spoil."""
    return shutil.copytree(whole_run, tmp_path / 'work')


@pytest.fixture
def assert_same_end(whole_run):
    """A function that compares the end of a run with the uninterrupted one's, bit for bit."""

    def compare(folder):
        ends = [torch.load(path / 'epoch_3.pth', weights_only=True) for path in (folder, whole_run)]
        for part in ('state_dict', 'ema_state_dict'):
            for name, value in ends[1][part].items():
                assert torch.equal(ends[0][part][name], value), name

    return compare
