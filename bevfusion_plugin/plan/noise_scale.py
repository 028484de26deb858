"""How big a batch is worth having, estimated from gradients of two batch sizes.

The gradient of B samples is the true one, G, plus noise of covariance Sigma / B. The noise scale tr(Sigma) / |G|^2 is the batch
at which both are equally big: below it a bigger total batch makes each update better in proportion, far above it no more.
"""

from __future__ import annotations

from bevfusion_plugin.plan.checked_settings import is_finite_number


def signal_and_noise(small_sq: float, big_sq: float, small_batch: int, big_batch: int) -> tuple[float, float]:
    """Unbiased estimates of |G|^2 and tr(Sigma); each may be negative, only their means over many updates mean something.

    Args:
        small_sq: Squared norm of the gradient of ``small_batch`` samples' mean loss.
        big_sq: That of ``big_batch`` samples, which may include the small batch.
        small_batch: Samples, fewer than ``big_batch``.
        big_batch: Samples.

    Raises:
        ValueError: If the batches are not of two sizes.

    Source:
        McCandlish et al. 2018, arXiv 1812.06162, appendix A.1.
    """
    if not 0 < small_batch < big_batch:
        raise ValueError(f'the noise scale needs two batch sizes, the smaller first; got {small_batch} and {big_batch}')
    signal = (big_batch * big_sq - small_batch * small_sq) / (big_batch - small_batch)
    noise = (small_sq - big_sq) / (1 / small_batch - 1 / big_batch)
    return signal, noise


class NoiseScale:
    """The ratio of two moving averages, tr(Sigma) over |G|^2: each estimate is unbiased, their ratio is not.

    Args:
        smoothing: Weight of the past in each average, in [0, 1). Both count every update alike at first.

    Raises:
        ValueError: If ``smoothing`` is outside.
    """

    def __init__(self, smoothing: float = 0.995):
        if not is_finite_number(smoothing) or not 0 <= smoothing < 1:
            raise ValueError(f'smoothing must be in [0, 1), got {smoothing!r}')
        self.smoothing = smoothing
        self.signal = self.noise = self._weight = 0.0

    def add(self, signal: float, noise: float) -> None:
        """Take in the estimates of one update."""
        self._weight = self.smoothing * self._weight + 1 - self.smoothing
        share = (1 - self.smoothing) / self._weight
        self.signal += share * (signal - self.signal)
        self.noise += share * (noise - self.noise)

    @property
    def value(self) -> float | None:
        """Samples; None while the averages are not both positive, so that their ratio says nothing."""
        return self.noise / self.signal if self.signal > 0 and self.noise > 0 else None
