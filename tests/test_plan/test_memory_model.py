from bevfusion_plugin.plan.memory_model import ALLOWANCES, FRAGMENTATION, IN_FLIGHT, ModelMemory, SavedBytes


def test_the_rows_add_up_and_follow_their_laws():
    memory = ModelMemory(
        100,
        90,
        180,
        0,
        SavedBytes(7, {'image': 1000, '': 10}, {'image': 400, '': 10}),
        [SavedBytes(0, {'image': 60}, {'image': 60})],
        dict(samples=1, pixels=20),
        {'image': 'pixels', '': 'samples'},
    )
    rows = memory.rows(dict(samples=3, pixels=80), ranks=4)
    assert rows['activations'] == 7 + 4 * 1000 + 3 * 10
    # while the image part runs again, what '' kept is free
    assert rows['recomputed by checkpointing'] == 4 * 60 - 3 * 10
    assert rows['gradients in flight (estimate)'] == IN_FLIGHT * 4 * 400
    assert rows['fragmentation (estimate)'] == round(FRAGMENTATION * (4037 + 210))
    assert rows['buckets of DistributedDataParallel'] == 90
    assert 'moving average of the weights' not in rows
    assert {f'{name} (estimate)' for name in ALLOWANCES} <= set(rows)
    assert 'buckets of DistributedDataParallel' not in memory.rows(dict(samples=3, pixels=80), ranks=1)


def test_what_is_run_again_early_in_the_backward_pass_finds_all_earlier_parts_still_kept():
    def beyond(part, size):
        memory = ModelMemory(
            0,
            0,
            0,
            0,
            SavedBytes(0, {'first': 10, 'second': 20, 'third': 70}, {}),
            [SavedBytes(0, {part: size}, {})],
            dict(samples=1),
            dict.fromkeys(('first', 'second', 'third'), 'samples'),
        )
        return memory.rows(dict(samples=1), 1).get('recomputed by checkpointing', 0)

    assert beyond('first', 100) == 10 + 100 - 100
    assert beyond('second', 100) == 30 + 100 - 100
    assert beyond('first', 90) == beyond('second', 70) == 0
