import pytest

from bevfusion_plugin.engine.checkpoints.position import Position, progress


@pytest.mark.parametrize('batches, windows, samples', [(0, 0, 0), (8, 2, 48), (9, 2, 48), (10, 3, 72)])
def test_windows_are_whole_but_for_an_epochs_last(batches, windows, samples):
    at = Position(epoch=1, batches=batches, batches_per_epoch=10, accumulative_counts=4, batch_size=6)
    assert (at.windows, at.samples) == (windows, samples)


@pytest.mark.parametrize(
    'counts, batch_size, length, expected',
    [
        (4, 6, 10, 4),  # the same plan
        (2, 12, 5, 2),
        (8, 3, 20, 8),  # the same total batch, 24
        (4, 12, 5, 0),  # twice the batch: the first half of the window is seen again
        (1, 6, 10, 4),
    ],
)  # a fourth of it
def test_another_plan_goes_on_with_the_same_sample(counts, batch_size, length, expected):
    at = Position(epoch=0, batches=4, batches_per_epoch=10, accumulative_counts=4, batch_size=6)
    assert at.batches_in_epoch(length, counts, batch_size) == expected


def test_a_whole_epoch_is_a_whole_epoch_in_any_plan():
    at = Position(epoch=0, batches=10, batches_per_epoch=10, accumulative_counts=4, batch_size=6)
    assert at.batches_in_epoch(21, 8, 3) == 21


def test_checkpoints_are_ordered_by_the_data_they_have_seen_not_by_their_iterations():
    inside = dict(batches_per_epoch=10, accumulative_counts=2, batch_size=4)
    one_gpu = dict(epoch=1, iter=40, position=dict(epoch=1, batches=0, batches_per_epoch=40, accumulative_counts=8, batch_size=1))
    four_gpus = dict(epoch=1, iter=12, position=dict(epoch=1, batches=2, **inside))
    assert progress(one_gpu) < progress(four_gpus)
    assert progress(dict(epoch=1, iter=10)) < progress(dict(epoch=2, iter=20)), "stock MMEngine's say no more"
