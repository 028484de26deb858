import pytest

from bevfusion_plugin.plan.batch_plan import BatchPlan, count_updates, nearest_plans


@pytest.mark.parametrize('batches, counts, expected', [(10, 4, 3), (8, 4, 2), (1, 4, 1), (0, 4, 0), (7, 1, 7)])
def test_train_flush_counts_a_short_last_window_once(batches, counts, expected):
    assert count_updates(batches, counts) == expected


@pytest.mark.parametrize('length', range(1, 12))
@pytest.mark.parametrize('counts', range(1, 6))
def test_epoch_flush_agrees_with_walking_the_windows(length, counts):
    updates, position = 0, 0
    for batch in range(3 * length):
        if position == 0:  # the first micro-batch of a window: its update is the one being counted
            updates += 1
        position = (position + 1) % counts
        if (batch + 1) % length == 0:
            position = 0
        assert count_updates(batch + 1, counts, length, 'epoch') == updates
    assert updates == 3 * -(-length // counts)


@pytest.mark.parametrize(
    'kwargs, message',
    [
        (dict(accumulative_counts=0), 'accumulative_counts must be an int >= 1, got 0'),
        (dict(accumulative_counts=2.5), 'got 2.5'),
        (dict(accumulative_counts='abc'), "got 'abc'"),
        (dict(accumulative_counts=2, flush='batch'), "flush must be one of 'epoch', 'train', got 'batch'"),
        (dict(accumulative_counts=2, flush='epoch'), 'batches_per_epoch must be an int >= 1, got None'),
    ],
)
def test_count_updates_refuses_what_it_cannot_count(kwargs, message):
    with pytest.raises(ValueError, match=message):
        count_updates(10, **kwargs)


def test_any_two_of_total_samples_and_accumulation_give_the_third():
    expected = BatchPlan(4, 2, 4)
    assert BatchPlan.derive(4, total_batch_size=32, samples_per_rank=2) == expected
    assert BatchPlan.derive(4, total_batch_size=32, accumulative_counts=4) == expected
    assert BatchPlan.derive(4, samples_per_rank=2, accumulative_counts=4) == expected
    assert BatchPlan.derive(4, total_batch_size=32, samples_per_rank=2, accumulative_counts=4) == expected
    assert expected.total_batch_size == 32
    assert str(expected) == '4 x 2 x A4 = 32'


def test_an_inconsistent_triple_raises_with_the_arithmetic():
    with pytest.raises(ValueError, match=r'4 x 3 x A8 = 96 is not the total_batch_size of 32'):
        BatchPlan.derive(4, total_batch_size=32, samples_per_rank=3, accumulative_counts=8)


def test_one_number_alone_is_not_enough():
    with pytest.raises(ValueError, match='two of total_batch_size, samples_per_rank and accumulative_counts'):
        BatchPlan.derive(4, total_batch_size=32)


def test_a_total_out_of_reach_lists_the_nearest_plans():
    with pytest.raises(
        ValueError,
        match=r'32 / \(4 x 3\) = 2\.667; nearest plans: 4 x 2 x A4 = 32, 4 x 4 x A2 = 32, '
        r'4 x 3 x A3 = 36',
    ):
        BatchPlan.derive(4, total_batch_size=32, samples_per_rank=3)


@pytest.mark.parametrize(
    'args, expected',
    [
        ((3, 32, 2, None), ['3 x 2 x A5 = 30']),  # three ranks never share 32
        ((4, 8, 3, None), ['4 x 2 x A1 = 8', '4 x 3 x A1 = 12']),  # the total is below one micro-batch of all ranks
        ((4, 32, None, 3), ['4 x 4 x A2 = 32', '4 x 2 x A4 = 32', '4 x 3 x A3 = 36']),  # A is what the user fixed
        ((8, 4, 3, None), ['8 x 3 x A1 = 24']),
    ],
)
def test_nearest_plans_keep_the_total_first_and_then_the_users_factor(args, expected):
    assert [str(plan) for plan in nearest_plans(*args)] == expected


@pytest.mark.parametrize(
    'plan, rule, ratio',
    [
        ((4, 2, 4), 'linear', 1.0),
        ((4, 2, 4), 'sqrt', 1.0),
        ((4, 2, 1), 'linear', 0.25),
        ((4, 2, 1), 'sqrt', 0.5),
        ((4, 3, 3), 'linear', 1.125),
        ((4, 3, 8), 'linear', 3.0),
        ((4, 3, 8), 'none', 1.0),
    ],
)
def test_lr_ratio_is_the_batch_ratio_to_the_rules_power(plan, rule, ratio):
    assert BatchPlan(*plan, base_batch_size=32, rule=rule).lr_ratio == pytest.approx(ratio, rel=1e-15)


def test_lr_ratio_without_a_base_batch_says_what_is_missing():
    with pytest.raises(ValueError, match='set auto_scale_lr.base_batch_size'):
        BatchPlan(4, 2, 4).lr_ratio


@pytest.mark.parametrize('samples, counts, batches', [(4, 2, 7724), (2, 4, 15448), (1, 8, 30895)])
def test_cbgs_nuscenes_makes_the_reference_number_of_updates(samples, counts, batches):
    reference = BatchPlan(8, 4)
    assert reference.updates_per_epoch(reference.batches_per_epoch(123580)) == 3862
    plan = BatchPlan(4, samples, counts)
    assert plan.batches_per_epoch(123580) == batches
    assert plan.updates_per_epoch(batches) == 3862
    assert plan.total_updates(20, batches) == 77240
    assert plan.total_updates(20, batches, 'train') == -(-20 * batches // counts)


def test_a_dropped_last_batch_and_the_partial_window_are_counted():
    plan = BatchPlan(2, 4, 3)
    assert plan.batches_per_epoch(35) == 5  # 18 samples a rank in fours
    assert plan.batches_per_epoch(35, drop_last=True) == 4
    assert plan.partial_window(5) == 2
    assert plan.partial_window(6) == 0


@pytest.mark.parametrize(
    'kwargs, message',
    [
        (dict(world_size=0, samples_per_rank=1), 'world_size must be an int >= 1, got 0'),
        (dict(world_size=4, samples_per_rank=-1), 'samples_per_rank must be an int >= 1, got -1; set train_dataloader'),
        (dict(world_size=4, samples_per_rank=2, accumulative_counts=2.5), 'accumulative_counts must be an int >= 1, got 2.5'),
        (dict(world_size=4, samples_per_rank=2, accumulative_counts=True), 'accumulative_counts must be an int >= 1, got True'),
        (dict(world_size=4, samples_per_rank=2, base_batch_size=0), 'base_batch_size must be an int >= 1, got 0'),
        (dict(world_size=4, samples_per_rank=2, rule='cubic'), "rule must be one of 'linear', 'sqrt', 'none', got 'cubic'"),
    ],
)
def test_a_wrong_setting_is_refused_with_its_value(kwargs, message):
    with pytest.raises(ValueError, match=message):
        BatchPlan(**kwargs)
