import pytest

from bevfusion_plugin.engine.accumulation.window_grid import WindowGrid
from bevfusion_plugin.plan.batch_plan import count_updates


def walk(grid: WindowGrid, start: int, end: int) -> list[int]:
    """Lengths of the windows from ``start`` to ``end``, one micro-batch at a time."""
    lengths, opened = [], 0
    for count in range(start, end):
        assert grid.remaining(count) >= 1
        opened += 1
        if grid.is_edge(count + 1):
            lengths.append(opened)
            opened = 0
        else:
            assert grid.remaining(count) == grid.remaining(count + 1) + 1
    assert opened == 0, 'the training ended inside a window'
    return lengths


def test_windows_restart_with_the_epoch():
    assert walk(WindowGrid(4, end=20, batches_per_epoch=10), 0, 20) == [4, 4, 2, 4, 4, 2]


def test_windows_run_on_across_epochs_without_a_length():
    assert walk(WindowGrid(4, end=22), 0, 22) == [4, 4, 4, 4, 4, 2]


def test_an_epoch_shorter_than_the_window_is_one_window():
    assert walk(WindowGrid(8, end=9, batches_per_epoch=3), 0, 9) == [3, 3, 3]


@pytest.mark.parametrize('counts', range(1, 6))
@pytest.mark.parametrize('length', range(1, 9))
def test_the_grid_makes_as_many_updates_as_are_counted(counts, length):
    end = 3 * length
    assert len(walk(WindowGrid(counts, end, length), 0, end)) == count_updates(end, counts, length, 'epoch')
    assert len(walk(WindowGrid(counts, end), 0, end)) == count_updates(end, counts)
