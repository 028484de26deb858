"""Which accumulation is best, measured during a training instead of by several."""

from __future__ import annotations

from typing import Any

from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor

from bevfusion_plugin.engine.accumulation.gradients import total_norm
from bevfusion_plugin.engine.accumulation.optim_wrapper import AccumulativeAmpOptimWrapper
from bevfusion_plugin.engine.accumulation.runner_plan import batch_plan_of
from bevfusion_plugin.plan.batch_plan import BatchPlan
from bevfusion_plugin.plan.noise_scale import NoiseScale, signal_and_noise
from bevfusion_plugin.registry import HOOKS


class NoiseScaleMeter:
    """Reads a wrapper's windows: the gradient of the first micro-batch on each rank against that of the whole window.

    Costs one norm an update (and one number summed over the ranks), and copies no gradient.

    Args:
        wrapper: The wrapper to read; its ``on_first_gradient`` is taken.
        plan: Ranks, samples and accumulation.
        smoothing: See :class:`NoiseScale`.

    Raises:
        ValueError: If the wrapper has no gradient of a smaller batch, or only a norm of another kind.
    """

    def __init__(self, wrapper: AccumulativeAmpOptimWrapper, plan: BatchPlan, smoothing: float):
        if plan.accumulative_counts < 2:
            raise ValueError(
                f'the gradient noise scale needs a window of at least two micro-batches, got {plan}; halve '
                'train_dataloader.batch_size and set optim_wrapper.accumulative_counts=2'
            )
        norm_type = (wrapper.clip_grad_kwargs or {}).get('norm_type', 2)
        if norm_type != 2:
            raise ValueError(f'the gradient noise scale needs euclidean norms, got norm_type={norm_type}; set clip_grad.norm_type=2')
        self.noise_scale = NoiseScale(smoothing)
        self._wrapper, self._plan = wrapper, plan
        self._first_norm: Tensor | None = None
        wrapper.on_first_gradient = self._measure

    def _measure(self, factor: float) -> None:
        self._first_norm = total_norm(self._wrapper.gradients()) / factor

    def after_micro_batch(self) -> bool:
        """Whether the micro-batch just done closed a full window whose update was applied; its estimates are taken in."""
        if not self._wrapper.should_update():
            return False
        is_full = self._wrapper.window.size == self._plan.accumulative_counts
        first_norm, self._first_norm = self._first_norm, None
        if not (is_full and self._wrapper.update_applied) or first_norm is None:
            return False
        small_sq = first_norm.double().square()
        all_reduce(small_sq, 'mean')
        self.noise_scale.add(
            *signal_and_noise(small_sq.item(), self._wrapper.grad_norm**2, self._plan.samples_per_rank, self._plan.total_batch_size)
        )
        return True

    def suggestion(self) -> str:
        """What the noise scale means for the accumulation with these ranks and samples, in one line."""
        samples = self.noise_scale.value
        if samples is None:
            return 'gradient noise scale: not measurable, the gradient is lost in its noise; train longer or accumulate more'
        micro = self._plan.world_size * self._plan.samples_per_rank
        return (
            f'gradient noise scale: {samples:.4g} samples (|G|^2 {self.noise_scale.signal:.4g}, tr(Sigma) '
            f'{self.noise_scale.noise:.4g}). Up to about that a bigger total batch pays; now it is {self._plan}. '
            f'With {self._plan.world_size} x {self._plan.samples_per_rank} that is accumulative_counts='
            f'{max(1, round(samples / micro))}.'
        )


@HOOKS.register_module()
class GradientNoiseScaleHook(Hook):
    """Logs ``noise_scale``, the total batch in samples up to which more accumulation pays, and suggests it at the end.

    Args:
        smoothing: Weight of the past in the moving averages; 0.995 averages over about 400 updates.

    Raises:
        ValueError: Before training, if the wrapper is another than :class:`AccumulativeAmpOptimWrapper` or does not
            accumulate; at construction, if ``smoothing`` is outside [0, 1).

    Source:
        McCandlish et al. 2018, "An Empirical Model of Large-Batch Training", arXiv 1812.06162, appendix A.
    """

    def __init__(self, smoothing: float = 0.995):
        self.smoothing = NoiseScale(smoothing).smoothing

    def before_train(self, runner: Runner) -> None:
        """Start measuring."""
        wrapper = runner.optim_wrapper
        if not isinstance(wrapper, AccumulativeAmpOptimWrapper):
            raise ValueError(
                f'GradientNoiseScaleHook cannot read the windows of {type(wrapper).__name__}; set '
                "optim_wrapper.type='bevfusion_plugin.AccumulativeAmpOptimWrapper'"
            )
        self.meter = NoiseScaleMeter(wrapper, batch_plan_of(runner, wrapper), self.smoothing)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Take in a window that was closed, and log."""
        if self.meter.after_micro_batch() and self.meter.noise_scale.value is not None:
            runner.message_hub.update_scalar('train/noise_scale', self.meter.noise_scale.value)

    def after_train(self, runner: Runner) -> None:
        """Say what was found."""
        runner.optim_wrapper.on_first_gradient = None
        runner.logger.info(self.meter.suggestion())
