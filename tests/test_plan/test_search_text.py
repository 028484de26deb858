import pytest

from bevfusion_plugin.plan.judgement import Training, WarmUp
from bevfusion_plugin.plan.memory_model import GIB
from bevfusion_plugin.plan.search import search_plans
from bevfusion_plugin.plan.search_text import memory_text, search_table, search_text

REFERENCE = Training(4, 32, 2e-4, 123_580, 6)


def test_the_table_has_a_line_for_every_plan_and_equal_widths():
    search = search_plans(REFERENCE, samples_per_rank=3)
    lines = search_table(search).splitlines()
    assert len(lines) == 1 + len(search.plans) and len({len(line) for line in lines}) == 1


def test_a_column_of_memory_is_there_if_memory_is_known():
    assert 'GiB' not in search_table(search_plans(REFERENCE))
    table = search_table(search_plans(REFERENCE, memory_of=lambda samples: 1.5 * samples, gpu_memory=24))
    assert 'GiB' in table and '12.0' in table.splitlines()[-1]


def test_a_short_warm_up_is_not_rounded_away():
    training = Training(4, 32, 2e-4, 123_580, 6, warm_up=WarmUp(5, 'micro-batches'))
    line = next(line for line in search_table(search_plans(training, 2, 4)).splitlines() if line.startswith('>'))
    assert line.split()[7] == '1.25'


@pytest.mark.parametrize(
    'arguments, expected',
    [
        (dict(), 'chosen: none; give --batch-size or --accumulate'),
        (dict(samples_per_rank=3), 'chosen: 4 x 3 x A3 = 36, usable\nbetter: 4 x 2 x A4 = 32'),
        (dict(samples_per_rank=2), 'chosen: 4 x 2 x A4 = 32, good'),
    ],
)
def test_the_text_ends_with_the_advice(arguments, expected):
    assert search_text(search_plans(REFERENCE, **arguments)).endswith(expected)


def test_the_text_says_that_memory_was_not_considered():
    assert 'is not considered' in search_text(search_plans(REFERENCE))
    assert 'is not considered' not in search_text(search_plans(REFERENCE, memory_of=lambda samples: 1.0))


def test_memory_is_told_by_what_needs_it_and_in_all():
    lines = memory_text({'gradients': GIB, 'activations': GIB // 2}).splitlines()
    assert [line.split() for line in lines[1:]] == [['gradients', '1.00'], ['activations', '0.50'], ['in', 'all', '1.50']]
