"""The figure of docs/recipe.md follows from the page's own table."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / 'benchmarks'))

from recipe_page import STYLES, figure  # noqa: E402

ROWS = [
    line.split(' | ')
    for line in (ROOT / 'docs' / 'recipe.md').read_text().splitlines()
    if line.startswith(tuple(f'| {letter} |' for letter in STYLES))
]


def test_every_recipe_of_the_page_has_its_row_with_mean_and_deviation():
    drawn = figure((ROOT / 'docs' / 'recipe.md').read_text())
    assert len(ROWS) == len(STYLES) == 8
    assert [label.get_text() for label in drawn.axes[0].get_yticklabels()] == [f'{row[0][2:]}  {row[1]}' for row in ROWS]
    for axis, column in zip(drawn.axes, (3, 4)):
        assert [float(bars[0].get_xdata()[0]) for bars in axis.containers] == [float(row[column].split(' ± ')[0]) for row in ROWS]
        lengths = [bars[2][0].get_segments()[0][:, 0] for bars in axis.containers]
        assert [high - low for low, high in lengths] == pytest.approx([2 * float(row[column].split(' ± ')[1]) for row in ROWS])
