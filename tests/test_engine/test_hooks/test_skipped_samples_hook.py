"""The count of skipped samples: where it is found, that it is logged, that the ranks' are added."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from gloo_ranks import run_ranks
from mmengine.logging import MessageHub
from toy_training import ToyData, logged, toy_runner, toy_loader

from bevfusion_plugin.engine.hooks.skipped_samples_hook import SkippedSamplesHook, skipping_data_sets


class Skipping(ToyData):
    """As if some samples were damaged and skipped."""

    skipped_samples = 3


def train_on(data, tmp_path, interval=10, **settings):
    """The runner of a toy training on ``data``, finished."""
    loader = toy_loader(data)
    runner = toy_runner(
        tmp_path,
        train_dataloader=loader,
        custom_hooks=[dict(type='bevfusion_plugin.SkippedSamplesHook', interval=interval)],
        default_hooks=dict(checkpoint=None, logger=dict(type='LoggerHook', interval=8)),
        **settings,
    )
    runner.train()
    return runner


def test_it_is_found_inside_wrappers():
    one, two = Skipping(), Skipping()
    concatenated = SimpleNamespace(datasets=[SimpleNamespace(dataset=one), ToyData(), two])
    assert list(skipping_data_sets(SimpleNamespace(dataset=concatenated))) == [one, two]
    assert list(skipping_data_sets(ToyData())) == []


@pytest.mark.parametrize('data, expected', [(Skipping, [3, 3]), (ToyData, [])])
def test_a_training_logs_the_count(data, expected, tmp_path):
    runner = train_on(data(), tmp_path, log_level='WARNING')
    lines = [json.loads(line) for path in Path(runner.log_dir).glob('vis_data/scalars.json') for line in path.read_text().splitlines()]
    assert [line['skipped_samples'] for line in lines if 'skipped_samples' in line] == expected
    assert ('3 damaged samples were skipped so far' in logged(runner)) == bool(expected)


def test_the_last_line_of_an_epoch_has_what_the_epoch_skipped(tmp_path):
    class Meeting(ToyData):
        """Meets a damaged sample at its last but one."""

        skipped_samples = 0

        def __getitem__(self, index):
            self.skipped_samples += index == 14
            return super().__getitem__(index)

    runner = train_on(Meeting(), tmp_path, interval=100)
    lines = next(Path(runner.log_dir).glob('vis_data/scalars.json')).read_text().splitlines()
    assert [json.loads(line)['skipped_samples'] for line in lines] == [1, 2]


def count(rank: int, world_size: int) -> float:
    hub = MessageHub.get_instance(f'skipping_{rank}')
    data = Skipping()
    data.skipped_samples = rank + 1
    runner = SimpleNamespace(train_dataloader=SimpleNamespace(dataset=data), message_hub=hub)
    SkippedSamplesHook().before_train(runner)
    return hub.get_scalar('train/skipped_samples').current()


def test_the_counts_of_the_ranks_are_added():
    assert run_ranks(2, count) == [3, 3]


def test_an_interval_that_is_none_is_refused():
    with pytest.raises(ValueError, match='interval must be an int >= 1, got 0'):
        SkippedSamplesHook(0)
