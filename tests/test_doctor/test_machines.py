"""The first table of README: what it says follows from the code as it is."""

import re

import pytest
from tool_loading import load_tool

from bevfusion_plugin.doctor.machines import BEGIN, END, HEADERS, with_table

GIB = re.compile(r'(\d+\.\d) GiB')


@pytest.fixture(scope='module')
def pages():
    """[(text as it is, text as it should be)]"""
    return [(path.read_text(), text) for path, text in load_tool('machine_table').updated_pages().items()]


def test_all_pages_are_up_to_date(pages):
    """GiB within 5 %, which versions of torch may differ by in what they save; `python tools/machine_table.py` writes the table."""
    for is_there, should_be in pages:
        assert GIB.sub('', is_there) == GIB.sub('', should_be)
        found, expected = ([float(gib) for gib in GIB.findall(text)] for text in (is_there, should_be))
        assert found == pytest.approx(expected, rel=0.05) and len(found) >= 12


def test_every_machine_makes_the_references_updates(pages):
    table = pages[0][1].split(BEGIN)[1].split(END)[0].strip().splitlines()[2:]
    cells = [[cell.strip() for cell in row.strip('|').split('|')] for row in table]
    assert {tuple(row[3:6]) for row in cells[:-1]} == {('32', '1e-3, 2e-4', '77,240 + 23,172')} and len(cells) == 7
    for row in cells[:-1]:
        for stage in row[1:3]:
            gpus, samples, counts = map(int, re.match(r'(\d+) x (\d+) x A(\d+),', stage).groups())
            assert gpus * samples * counts == 32 and row[0].startswith(f'{gpus} x ')


def test_the_table_replaces_what_stands_between_the_marks():
    assert with_table(f'a\n{BEGIN}\nold\n{END}\nb', 'new') == f'a\n{BEGIN}\nnew\n{END}\nb'
    with pytest.raises(ValueError, match='once each'):
        with_table('a', 'new')


def test_headers_have_the_same_columns():
    assert {len(header) for header in HEADERS.values()} == {7}
