"""A training that goes on past damaged samples: how many, which take their places, how they are counted among workers."""

from __future__ import annotations

import pytest
from mmengine.dataset import BaseDataset, ConcatDataset
from torch.utils.data import DataLoader

from bevfusion_plugin.datasets import BadSample, CBGSDataset, SkipBadSamples
from bevfusion_plugin.datasets.checks.fault import Fault, bad_sample


class Numbered(BaseDataset):
    """Gives the number of each sample; those in ``damaged`` raise."""

    METAINFO = dict(classes=('a',))

    def __init__(self, length: int = 10, damaged: tuple[int, ...] = (), start: int = 0, **kwargs) -> None:
        self.length, self.damaged, self.start = length, damaged, start
        super().__init__(**kwargs)

    def load_data_list(self) -> list[dict]:
        return [dict(number=self.start + index) for index in range(self.length)]

    def get_cat_ids(self, idx: int) -> list[int]:
        return [0]

    def prepare_data(self, idx: int) -> int:
        number = self.get_data_info(idx)['number']
        if number in self.damaged:
            raise bad_sample(dict(sample_idx=number), Fault(f'{number}.bin', 'is empty', 'copy it again'))
        return number


def logged(monkeypatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr('bevfusion_plugin.datasets.skip_bad_samples.print_log', lambda line, *_: lines.append(line))
    return lines


def test_the_next_sample_takes_the_place_of_a_damaged_one():
    data = SkipBadSamples(Numbered(damaged=(3, 4, 9)), skip_bad_samples=3)
    assert [data[index] for index in range(10)] == [0, 1, 2, 5, 5, 5, 6, 7, 8, 0] and len(data) == 10
    assert data.skipped_samples == 3


def test_each_damaged_sample_is_logged_once_with_its_error(monkeypatch):
    lines = logged(monkeypatch)
    data = SkipBadSamples(Numbered(damaged=(3, 5)), skip_bad_samples=5)
    for index in [3, 5, 3, 3, 5]:
        data[index]
    assert len(lines) == 2 and data.skipped_samples == 2
    assert lines[0].startswith('skipped, number 1 of 5 on this rank: sample 3: 3.bin is empty; copy it again')


def test_one_damaged_sample_too_many_stops_with_its_error():
    data = SkipBadSamples(Numbered(damaged=(1, 2, 3)), skip_bad_samples=2)
    with pytest.raises(BadSample, match='sample 3: 3.bin is empty; .* damaged sample number 3 of this rank, and skip_bad_samples is 2'):
        data[1]


def test_with_zero_the_first_one_stops():
    data = SkipBadSamples(Numbered(damaged=(1,)), skip_bad_samples=0)
    assert data[0] == 0
    with pytest.raises(BadSample, match='number 1 of this rank'):
        data[1]


def test_other_errors_are_not_hidden():
    class Failing(Numbered):
        def prepare_data(self, idx):
            raise RuntimeError('a bug')

    with pytest.raises(RuntimeError, match='a bug'):
        SkipBadSamples(Failing(), skip_bad_samples=5)[0]


def test_a_set_without_any_good_sample_is_an_error():
    data = SkipBadSamples(Numbered(length=3, damaged=(0, 1, 2)), skip_bad_samples=9)
    with pytest.raises(BadSample, match='none of the 3 samples is in order'):
        data[0]


def read_all(data, workers: int, context: str | None = None) -> list[int]:
    loader = DataLoader(data, batch_size=2, num_workers=workers, multiprocessing_context=context, collate_fn=list)
    return [number for batch in loader for number in batch]


@pytest.mark.parametrize('workers, context', [(0, None), (2, 'fork'), (3, 'fork')])
def test_the_workers_of_a_rank_count_together_and_the_order_is_the_same(workers, context):
    data = SkipBadSamples(Numbered(damaged=(3, 6)), skip_bad_samples=2)
    expected = [0, 1, 2, 4, 4, 5, 7, 7, 8, 9]
    for _ in range(2):  # a second epoch, with new workers, meets the same two
        assert read_all(data, workers, context) == expected
    assert data.skipped_samples == 2


@pytest.mark.slow
def test_spawned_workers_count_too():
    data = SkipBadSamples(Numbered(length=4, damaged=(2,)), skip_bad_samples=1)
    assert read_all(data, 1, 'spawn') == [0, 1, 3, 3] and data.skipped_samples == 1


def test_the_workers_together_stop_at_one_too_many():
    data = SkipBadSamples(Numbered(damaged=(1, 2, 5)), skip_bad_samples=2)
    with pytest.raises(BadSample, match=r'(?s)damaged sample number 3 of this rank, and skip_bad_samples is 2'):
        read_all(data, 2)


def test_around_and_inside_class_balanced_sampling_a_sample_counts_once():
    for data in (
        SkipBadSamples(CBGSDataset(Numbered(damaged=(3,))), skip_bad_samples=1),
        CBGSDataset(dataset=dict(type=SkipBadSamples, skip_bad_samples=1, dataset=dict(type=Numbered, damaged=(3,)))),
    ):
        for _ in range(2):
            assert 3 not in [data[index] for index in range(len(data))]
        assert data.metainfo['classes'] == ('a',)


def test_around_and_inside_a_concatenation():
    parts = [Numbered(length=4, damaged=(3,)), Numbered(length=4, start=10, damaged=(10,))]
    data = SkipBadSamples(ConcatDataset(parts), skip_bad_samples=2)
    assert [data[index] for index in range(8)] == [0, 1, 2, 11, 11, 11, 12, 13] and data.skipped_samples == 2
    inside = ConcatDataset([dict(type=SkipBadSamples, skip_bad_samples=1, dataset=dict(type=Numbered, length=4, damaged=(3,)))])
    assert [inside[index] for index in range(4)] == [0, 1, 2, 0]


def test_a_validation_is_refused():
    with pytest.raises(ValueError, match='SkipBadSamples is for training'):
        SkipBadSamples(ConcatDataset([Numbered(test_mode=True)]), skip_bad_samples=2)


@pytest.mark.parametrize('number', [-1, True, 1.5, '3'])
def test_a_number_that_is_none_is_refused(number):
    with pytest.raises(ValueError, match='skip_bad_samples must be an int from 0 to 1048576, got'):
        SkipBadSamples(Numbered(), skip_bad_samples=number)
