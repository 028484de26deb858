from bevfusion_plugin.plan.memory_model import ALLOWANCES, FRAGMENTATION, IN_FLIGHT, ModelMemory, SavedBytes


def test_the_rows_add_up_and_follow_their_laws():
    memory = ModelMemory(100, 90, 180, 0, SavedBytes(7, {'image': 1000, '': 10}, {'image': 400, '': 10}),
                         SavedBytes(0, {'image': 50}, {'image': 50}), dict(samples=1, pixels=20),
                         {'image': 'pixels', '': 'samples'})
    rows = memory.rows(dict(samples=3, pixels=80), ranks=4)
    assert rows['activations'] == 7 + 4 * 1000 + 3 * 10
    assert rows['recomputed by checkpointing'] == 4 * 50
    assert rows['gradients in flight (estimate)'] == IN_FLIGHT * 4 * 400
    assert rows['fragmentation (estimate)'] == round(FRAGMENTATION * (4037 + 200))
    assert rows['buckets of DistributedDataParallel'] == 90
    assert 'moving average of the weights' not in rows
    assert {f'{name} (estimate)' for name in ALLOWANCES} <= set(rows)
    assert 'buckets of DistributedDataParallel' not in memory.rows(dict(samples=3, pixels=80), ranks=1)
