import pytest

from bevfusion_plugin.plan.batch_plan import BatchPlan
from bevfusion_plugin.plan.judgement import Training
from bevfusion_plugin.plan.search import choose, enumerate_plans, search_plans

REFERENCE = Training(4, 32, 2e-4, 123_580, 6)


def totals(search):
    return {(each.plan.samples_per_rank, each.plan.accumulative_counts): each.plan.total_batch_size for each in search.plans}


def test_three_samples_on_four_gpus_do_not_reach_32_and_get_the_nearest_plans():
    search = search_plans(REFERENCE, samples_per_rank=3)
    assert search.findings == [search.problem]
    assert '32 / (4 x 3) = 2.667; nearest plans: 4 x 2 x A4 = 32, 4 x 4 x A2 = 32, 4 x 3 x A3 = 36' in search.problem
    assert str(search.chosen.plan) == '4 x 3 x A3 = 36' and str(search.recommended.plan) == '4 x 2 x A4 = 32'
    assert {(2, 4): 32, (4, 2): 32, (3, 3): 36, (3, 8): 96}.items() <= totals(search).items()


def test_b_and_a_together_are_taken_as_they_are():
    search = search_plans(REFERENCE, samples_per_rank=3, accumulative_counts=7)
    assert str(search.chosen.plan) == '4 x 3 x A7 = 84' and search.problem is None
    assert len(search.findings) == 1 and 'of the 23,172' in search.findings[0]


def test_a_alone_derives_b():
    search = search_plans(REFERENCE, accumulative_counts=4)
    assert str(search.chosen.plan) == '4 x 2 x A4 = 32' and search.findings == []


def test_a_alone_keeps_a_where_the_target_is_out_of_reach():
    search = search_plans(REFERENCE, accumulative_counts=3)
    assert str(search.chosen.plan) == '4 x 3 x A3 = 36' and 'no whole samples_per_rank' in search.problem


def test_a_total_batch_takes_the_place_of_the_base_batch():
    search = search_plans(REFERENCE, samples_per_rank=3, total_batch_size=24)
    assert str(search.chosen.plan) == '4 x 3 x A2 = 24' and search.problem is None
    assert search.chosen.lrs['linear'] == pytest.approx(1.5e-4)


def test_nothing_is_chosen_where_neither_the_question_nor_the_memory_limits_b():
    search = search_plans(REFERENCE)
    assert search.chosen is None and search.recommended is None and search.findings == []


def test_the_memory_chooses_the_plan_with_the_fewest_micro_batches_that_fits():
    search = search_plans(REFERENCE, memory_of=lambda samples: 5.0 * samples, gpu_memory=24)
    assert str(search.chosen.plan) == '4 x 4 x A2 = 32' and search.chosen.memory == 20
    assert next(each for each in search.plans if each.plan.samples_per_rank == 6).verdict == 'bad'


def test_nothing_is_recommended_where_nothing_fits():
    search = search_plans(REFERENCE, samples_per_rank=2, memory_of=lambda samples: 30.0, gpu_memory=24)
    assert search.recommended is None and '30.0 GiB' in search.findings[0]


def test_the_memory_is_asked_once_for_each_b():
    asked = []
    search_plans(REFERENCE, samples_per_rank=3, memory_of=lambda samples: asked.append(samples) or 1.0)
    assert asked == [1, 2, 3, 4, 6, 8]


@pytest.mark.parametrize('world_size', [1, 3, 4, 5])
@pytest.mark.parametrize('target', [1, 7, 32, 96])
@pytest.mark.parametrize('b, counts', [(None, None), (5, None), (None, 3), (5, 3)])
def test_plans_are_ascending_distinct_and_hold_the_chosen_one(world_size, target, b, counts):
    plans = enumerate_plans(world_size, target, b, counts)
    keys = [(plan.samples_per_rank, plan.accumulative_counts) for plan in plans]
    assert keys == sorted(set(keys))
    chosen, _ = choose(world_size, target, b, counts)
    assert chosen is None or chosen in plans
    if target % world_size == 0 and target // world_size <= 8:
        assert any(plan.total_batch_size == target for plan in plans) or target // world_size in (5, 7)


@pytest.mark.parametrize(
    'arguments, message',
    [
        ((0, None), 'samples_per_rank must be an int >= 1, got 0'),
        ((None, -1), 'accumulative_counts must be an int >= 1, got -1'),
        ((3, 8, 32), '4 x 3 x A8 = 96 is not the total_batch_size of 32'),
        ((2, None, 0), 'base_batch_size must be an int >= 1, got 0'),
    ],
)
def test_wrong_questions_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        search_plans(REFERENCE, *arguments)


def test_the_answer_is_told_in_plain_values():
    told = search_plans(REFERENCE, samples_per_rank=3).as_dict()
    assert told['reference_updates'] == 23_172 and told['target'] == 32 and len(told['findings']) == 1
    assert [plan['total_batch_size'] for plan in told['plans'] if plan['chosen']] == [36]
    assert [plan['total_batch_size'] for plan in told['plans'] if plan['recommended']] == [32]


def test_plans_do_not_depend_on_the_rule():
    assert choose(4, 32, 2, None)[0] == BatchPlan(4, 2, 4)
