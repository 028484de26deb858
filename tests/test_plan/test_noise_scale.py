import pytest

from bevfusion_plugin.plan.noise_scale import NoiseScale, signal_and_noise


def test_estimates_invert_the_expectation_of_a_noisy_gradient():
    signal, noise = 3.0, 40.0
    small, big = 4, 32
    assert signal_and_noise(signal + noise / small, signal + noise / big, small, big) == pytest.approx((signal, noise))


@pytest.mark.parametrize('batches', [(4, 4), (8, 4), (0, 4)])
def test_two_sizes_are_needed(batches):
    with pytest.raises(ValueError, match='needs two batch sizes'):
        signal_and_noise(1.0, 1.0, *batches)


def test_both_averages_count_early_updates_alike_and_the_ratio_needs_both_positive():
    found = NoiseScale(0.999)
    assert found.value is None
    found.add(1.0, 10.0)
    found.add(3.0, 20.0)
    assert found.value == pytest.approx(15 / 2, rel=1e-3)
    found.add(-100.0, 20.0)
    assert found.value is None
