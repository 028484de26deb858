"""The optimizer wrapper that makes A accumulated micro-batches on W ranks do what W*A ranks do.

Letters: W ranks, b samples a rank a micro-batch, A micro-batches a window (``accumulative_counts``), L micro-batches an epoch.
A window ends in one update: one synchronisation, one unscaling, one clip, one optimizer step.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.optim import Optimizer

from bevfusion_plugin.engine.accumulation.batch_norm import StatisticsAtStart, correct_bn_momentum, spoiled_statistics
from bevfusion_plugin.engine.accumulation.gradients import not_finite, over_ranks, total_norm
from bevfusion_plugin.engine.accumulation.micro_batch import MicroBatch, describe_bad, describe_forward
from bevfusion_plugin.engine.accumulation.precision import SMALLEST_SCALE, autocast_dtype, build_scaler, scaler_settings
from bevfusion_plugin.engine.accumulation.window import counted_samples
from bevfusion_plugin.engine.accumulation.windowed_optim_wrapper import WindowedOptimWrapper
from bevfusion_plugin.plan.checked_settings import positive_int, switch
from bevfusion_plugin.registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class AccumulativeAmpOptimWrapper(WindowedOptimWrapper):
    """Accumulates, scales, clips and steps; on CPU and GPU, in float16, bfloat16 or float32.

    A window is A micro-batches, fewer at the end of an epoch. Its micro-batch weights always sum to 1. An update whose
    gradient is not finite is skipped as a whole: parameters, optimizer state and BatchNorm's statistics stay, and it is counted.

    Args:
        optimizer: The optimizer to wrap.
        accumulative_counts: Micro-batches a window, A; ``'auto'``: what ``total_batch_size`` needs on the GPUs that are
            there, found by ``AutoScaleLRHook``.
        clip_grad: Arguments of ``clip_grad_norm_`` (``type='value'``: of ``clip_grad_value_``). None: no clipping.
        total_batch_size: Samples an update should see on all ranks; needed by ``'auto'``, checked otherwise.
        flush: ``'epoch'``: no window straddles an epoch. ``'train'``: MMEngine's way, windows run on.
        weight_by: ``'micro_batch'``: each counts the same, which equals more ranks. ``'samples'``: each counts by its samples,
            also across ranks, which equals one big batch (at the price of one more number to sum up over the ranks).
        dtype: ``'float16'``, ``'bfloat16'`` or ``'float32'`` (no autocast); None: autocast's own choice on that device.
        loss_scale: ``'dynamic'``, a number, or a dict of ``GradScaler``'s arguments; used for float16 only.
        reset_scaler_every_epoch: Start each epoch with a new gradient scaler, as OpenPCDet does.
        bn_momentum_correction: Make BatchNorm's running statistics move per update as without accumulation.
        max_bad_windows: Windows in a row that a NaN may spoil before training stops with an error; a dynamic loss scale that
            has fallen to 1 stops it at the next one.

    Attributes:
        window: Which window, which update, whether one is open; see :class:`Window`.
        grad_norm: Gradient norm of the last window, before clipping and free of the loss scale.
        window_scale: Loss scale of the last window; 1 without a scaler.
        clipped: Whether clipping changed the last window's gradient.
        updates, skipped_updates, update_applied, is_auto, batches_per_epoch: See :class:`WindowedOptimWrapper`.
        on_first_gradient: Called with a window's first gradient in place, synchronised on no rank yet; its argument is what
            that gradient must be divided by to be the gradient of the micro-batch's loss.

    Raises:
        ValueError: On any wrong setting, with the value and the mend.

    Source:
        Interface and state: MMEngine 0.10.7, OptimWrapper and AmpOptimWrapper. Differences: see the arguments.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        accumulative_counts: int | str = 1,
        clip_grad: dict[str, Any] | None = None,
        total_batch_size: int | None = None,
        flush: str = 'epoch',
        weight_by: str = 'micro_batch',
        dtype: str | torch.dtype | None = None,
        loss_scale: str | float | dict[str, Any] = 'dynamic',
        reset_scaler_every_epoch: bool = False,
        bn_momentum_correction: bool = False,
        max_bad_windows: int = 10,
    ):
        super().__init__(optimizer, accumulative_counts, clip_grad, total_batch_size, flush, weight_by)
        self.max_bad_windows = positive_int('max_bad_windows', max_bad_windows, 'set optim_wrapper.max_bad_windows')
        switch('bn_momentum_correction', bn_momentum_correction)
        if switch('reset_scaler_every_epoch', reset_scaler_every_epoch) and flush != 'epoch':
            raise ValueError(
                f"reset_scaler_every_epoch needs windows that end with the epoch, got flush={flush!r}; set optim_wrapper.flush='epoch'"
            )
        self.reset_scaler_every_epoch = reset_scaler_every_epoch
        self.bn_momentum_correction = bn_momentum_correction
        self.device = self._parameters()[0].device
        self.cast_dtype = autocast_dtype(dtype, self.device.type)
        self._scaler_settings, self._static_scale = scaler_settings(loss_scale)
        self.loss_scaler = self._new_scaler()
        self.clipped = False
        self.grad_norm, self.window_scale = 0.0, 1.0
        self.on_first_gradient: Callable[[float], None] | None = None
        self._bad_windows = 0
        self._statistics = StatisticsAtStart()
        self._model: nn.Module | None = None
        self._forwarded: MicroBatch | None = None

    def initialize_count_status(self, model: nn.Module, init_counts: int, max_counts: int) -> None:
        """Set where training starts, and how fast BatchNorm's statistics move."""
        super().initialize_count_status(model, init_counts, max_counts)
        self.correct_statistics(model)

    def correct_statistics(self, model: nn.Module) -> None:
        """Set how fast the running statistics of ``model`` move, if ``bn_momentum_correction`` asks for it."""
        self._model = model
        if self.bn_momentum_correction:
            layers = correct_bn_momentum(model, self._accumulative_counts)
            print_log(
                f'bn_momentum_correction: {layers} layers follow {self._accumulative_counts} micro-batches an update', logger='current'
            )

    # ---- one micro-batch

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Run ``model``'s forward pass inside: it casts, and keeps the ranks from synchronising before the window's end.

        Args:
            model: The model, in ``DistributedDataParallel`` or not.
        """
        self._model = model
        if not self.window.is_open:
            self._ask_epoch_length()
            self._statistics.keep(model)
        noting = model.register_forward_hook(self._note_forward, with_kwargs=True)
        low = None if self.cast_dtype is torch.float32 else self.cast_dtype
        casting = torch.autocast(self.device.type, low, enabled=low is not None)
        try:
            with super().optim_context(model), casting:
                yield
        finally:
            noting.remove()

    def _note_forward(self, model: nn.Module, args: tuple, kwargs: dict[str, Any], losses: Any) -> None:
        self._forwarded = describe_forward(args, kwargs, losses)

    def scale_loss(self, loss: Tensor) -> Tensor:
        """``loss`` times its weight in the window; opens a window if none is open.

        Args:
            loss: Scalar loss of one micro-batch.
        """
        window = self.window
        if not window.is_open:
            self._require_counts()  # loops that are not Runner's never initialise the counts
            self._ask_epoch_length()
            window.begin()
            if self.reset_scaler_every_epoch and window.grid.position(window.count) == 0:
                self.loss_scaler = self._new_scaler()
        micro_batch, self._forwarded = self._forwarded or MicroBatch(), None
        micro_batch.iteration, micro_batch.loss = window.count + 1, loss.detach()
        if window.weight_by == 'samples' and window.count == self._start_count:
            window.usual_samples = int(over_ranks(counted_samples(micro_batch), 'max', self.device))
        window.micro_batches.append(micro_batch)
        return loss * window.weight(micro_batch)

    def backward(self, loss: Tensor, **kwargs: Any) -> None:
        """Propagate ``loss`` back, times the loss scale.

        Args:
            loss: What :meth:`scale_loss` returned.
            **kwargs: Passed to ``Tensor.backward``.
        """
        loss = loss if self.loss_scaler is None else self.loss_scaler.scale(loss)
        loss.backward(**kwargs)
        is_local = not self._learns_graph()
        self._inner_count += 1
        # MMEngine's schedulers step after every micro-batch and would warn that no update came first.
        self._global_step = max(getattr(self, '_global_step', 0), 0)
        first = self.window.micro_batches[0]
        if self.on_first_gradient is not None and len(self.window.micro_batches) == 1 and is_local:
            self.on_first_gradient(self.window.weight(first) * self.scale)

    def step(self, **kwargs: Any) -> None:
        """Close the window: unscale, normalise, clip, and update unless the gradient is not finite.

        Args:
            **kwargs: Passed to ``Optimizer.step``.

        Raises:
            FloatingPointError: If ``max_bad_windows`` windows in a row were bad, the loss scale cannot fall any further, or
                running statistics are no numbers.
        """
        if self.loss_scaler is not None:
            self.loss_scaler.unscale_(self.optimizer)
        self._normalise()
        self._clip_grad()
        micro_batches = self.window.close(applied=math.isfinite(self.grad_norm))
        if self.window.applied:
            self.optimizer.step(**kwargs)  # the scaler's own would ask the device once more whether the gradient is finite
            self._bad_windows = 0
        else:
            self._skip(micro_batches)
        if self.loss_scaler is not None:
            self.loss_scaler.update(self._static_scale)
        self._statistics.forget()

    def _normalise(self) -> None:
        """Make the weights of the window sum to 1 where they do not yet: it ended early, or counts samples."""
        wanted: float = self.window.wanted
        got: float = self.window.got
        if self.window.weight_by == 'samples':
            # DistributedDataParallel has taken the mean over the ranks, so the sum of the weights is to be one, too.
            got = over_ranks(got, 'mean', self.device)
        gradients = self.gradients()
        if wanted != got and gradients:
            torch._foreach_mul_(gradients, wanted / got)

    def _clip_grad(self) -> None:
        gradients, settings = self.gradients(), self.clip_grad_kwargs or {}
        by_norm = 'max_norm' in settings
        if by_norm and gradients:
            norm = self.clip_func(self._parameters(with_gradient=True), **settings)
        else:
            norm = total_norm(gradients)
        self._read_back(norm)
        self.clipped = by_norm and self.grad_norm > settings['max_norm']
        if settings and not by_norm:
            self.clip_func(self._parameters(with_gradient=True), **settings)
        if math.isfinite(self.grad_norm):
            self.message_hub.update_scalar('train/grad_norm', self.grad_norm)

    def _read_back(self, norm: Tensor) -> None:
        """Wait for the device, once a window: gradient norm and loss scale together."""
        read = [norm] if self.loss_scaler is None else [norm, self.loss_scaler.scale(norm.new_ones(()))]
        self.grad_norm, *scale = torch.stack([number.double() for number in read]).tolist()
        self.window_scale = scale[0] if scale else 1.0

    def _skip(self, micro_batches: list[MicroBatch]) -> None:
        """Count the update that was left out; with a scaler an overflow is part of finding the scale, a NaN loss is not."""
        self._statistics.restore()
        bad = [micro_batch for micro_batch in micro_batches if not micro_batch.is_finite()]
        spoiled = spoiled_statistics(self._model)
        # Gradients are shared, losses and statistics are not: the ranks must agree before one of them stops.
        if over_ranks(bool(spoiled), 'max', self.device):
            self._stop(f'running statistics are no numbers, on this rank: {spoiled or "none"}; resume from another checkpoint', bad)
        seeks_scale = self.loss_scaler is not None and self._static_scale is None
        if seeks_scale and self.window_scale <= SMALLEST_SCALE:
            self._stop(f'the loss scale has fallen to {self.window_scale:g} and the gradient still is not finite', bad)
        self._bad_windows += bool(over_ranks(bool(bad) or not seeks_scale, 'max', self.device))
        if self._bad_windows >= self.max_bad_windows:
            self._stop(f'{self._bad_windows} windows in a row had no finite gradient (max_bad_windows); no update was made from them', bad)

    def _stop(self, why: str, bad: list[MicroBatch]) -> None:
        raise FloatingPointError(f'{why}. {describe_bad(bad, not_finite(self._model))}')

    def gradients(self) -> list[Tensor]:
        """Gradients that are there at the moment, of all groups."""
        return [parameter.grad for parameter in self._parameters() if parameter.grad is not None]

    @property
    def scale(self) -> float:
        """The loss scale; 1 without a scaler. Reading it waits for the device."""
        return 1.0 if self.loss_scaler is None else self.loss_scaler.get_scale()

    def state_dict(self) -> dict[str, Any]:
        """Optimizer, scaler (as MMEngine's AmpOptimWrapper stores it), and where in its window the training is."""
        state = super().state_dict()
        if self.loss_scaler is not None:
            state['loss_scaler'] = self.loss_scaler.state_dict()
        window = self.window
        state['window'] = dict(position=len(window.micro_batches), updates=window.updates, skipped_updates=window.skipped)
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned, or that of MMEngine's wrappers; the argument is not changed.

        Args:
            state_dict: The state. One taken inside a window has lost the gradients of the window's start: the rest of
                the window then makes the update alone.
        """
        state = dict(state_dict)
        window, scaler = state.pop('window', {}), state.pop('loss_scaler', None)
        if scaler and self.loss_scaler is not None:
            self.loss_scaler.load_state_dict(scaler)
        self.window.updates, self.window.skipped = window.get('updates', 0), window.get('skipped_updates', 0)
        if window.get('position'):
            print_log(
                f'the checkpoint lies inside a window: the gradients of {window["position"]} micro-batches are lost',
                logger='current',
                level=logging.WARNING,
            )
        implementation = [{name: group[name] for name in ('fused', 'foreach') if name in group} for group in self.param_groups]
        super().load_state_dict(state)
        for group, settings in zip(self.param_groups, implementation):
            group.update(settings)  # the optimizer's own: with another's, torch's fused AdamW fails under a gradient scaler

    def _new_scaler(self) -> torch.amp.GradScaler | None:
        if self.cast_dtype is not torch.float16:
            return None
        return build_scaler(self._scaler_settings, self.device.type)
