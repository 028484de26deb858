from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

from bevfusion_plugin.engine.accumulation.runner_plan import samples_per_rank


def test_the_batch_sampler_is_asked_for_the_samples():
    data = list(range(10))
    assert samples_per_rank(DataLoader(data, batch_size=3)) == 3
    assert samples_per_rank(DataLoader(data, batch_sampler=BatchSampler(SequentialSampler(data), 4, False))) == 4
    assert samples_per_rank(DataLoader(data, batch_sampler=[[0, 1], [2, 3]])) is None
