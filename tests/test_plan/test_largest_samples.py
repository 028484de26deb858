import pytest

from bevfusion_plugin.plan.largest_samples import largest_samples


def needs(samples):
    """GiB: 2 and 3.5 a sample."""
    return 2 + 3.5 * samples


@pytest.mark.parametrize(
    'ranks, gpu_memory, samples',
    [(1, 24, 4), (2, 24, 4), (4, 24, 4), (8, 24, 4), (16, 24, 2), (32, 24, 1), (1, 80, 16), (4, 80, 8), (8, 80, 4), (4, 12, 2)],
)
def test_it_is_the_largest_that_fits_and_divides_the_total(ranks, gpu_memory, samples):
    assert largest_samples(ranks, 32, needs, gpu_memory) == samples


def test_a_tenth_of_the_gpu_stays_free():
    assert largest_samples(4, 32, needs, 16 / 0.9) == 4 and largest_samples(4, 32, needs, 15.9 / 0.9) == 2


@pytest.mark.parametrize('ranks', [3, 64])
def test_ranks_that_the_total_cannot_be_dealt_to_are_refused(ranks):
    with pytest.raises(ValueError, match=f'32 cannot be dealt to {ranks} ranks; nearest plans: {ranks} x 1 x A'):
        largest_samples(ranks, 32, needs, 24)


def test_one_sample_that_does_not_fit_is_said_with_both_numbers():
    with pytest.raises(ValueError, match=r'one sample needs 5.5 GiB, and 90% of the GPU are 3.6'):
        largest_samples(4, 32, needs, 4)
