"""What a training promises, as far as this device keeps it: a resumed run, and the price of accumulation."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from mmengine.config import Config
from on_gpu.training import Training, synchronize
from torch import Tensor

STEPS = 2  # before and after the interruption


def resumed(cfg: Config, device: str, dtype: str, share: float) -> dict[str, float | bool]:
    """How far a resumed training is from the uninterrupted one, and two resumed ones from each other.

    Distances are the largest difference of any parameter, relative to the largest move of any parameter since the interruption.
    Sums by atomic additions come out in another order each time on CUDA; then bit for bit is out of reach, and a resumed run
    should be no further from the uninterrupted one than from another resumed one.
    """

    def trained(state: dict | None = None) -> tuple[Training, dict]:
        training = Training(cfg, device, 1, dtype, share=share)
        if state is None:
            for _ in range(STEPS):
                training.step()
            state = training.state()
        else:
            training.resume(state)
        for _ in range(STEPS):
            training.step()
        return training, state

    first, state = trained()
    parameters = _values(first)
    resumed_once, _ = trained(state)
    again, _ = trained(state)
    moved = max((value.float() - state['model'][name].float()).abs().max().item() for name, value in parameters.items())
    far, repeated = (_distance(parameters, _values(other)) / max(moved, 1e-30) for other in (resumed_once, again))
    between = _distance(_values(resumed_once), _values(again)) / max(moved, 1e-30)
    return dict(bit_for_bit=far == 0, resumed_from_uninterrupted=max(far, repeated), two_resumed_runs=between)


def _values(training: Training) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in training.model.named_parameters() if parameter.requires_grad}


def _distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    return max((one[name].float() - other[name].float()).abs().max().item() for name in one)


def accumulation_overhead(cfg: Config, device: str, dtype: str, share: float, windows: int, counts: int = 4) -> dict[str, float]:
    """Time of a window of ``counts`` micro-batches in our wrapper against the least that PyTorch can do for one, in turns.

    The least: forward and backward passes under autocast, one unscaling, one norm with clipping, one step.
    """
    training = Training(cfg, device, 1, dtype, counts=counts, share=share)
    bare = Training(cfg, device, 1, dtype, counts=counts, share=share)
    scaler = torch.amp.GradScaler(device, init_scale=2.0**8, enabled=dtype == 'float16')
    low = getattr(torch, dtype)

    def bare_window() -> None:
        for _ in range(counts):
            with torch.autocast(device, low, enabled=low is not torch.float32):
                data = bare.model.data_preprocessor(bare.batch, True)
                losses, _ = bare.model.parse_losses(bare.model(**data, mode='loss'))
            scaler.scale(losses / counts).backward()
        scaler.unscale_(bare.wrapper.optimizer)
        torch.nn.utils.clip_grad_norm_(bare.model.parameters(), 35)
        scaler.step(bare.wrapper.optimizer)
        scaler.update()
        bare.wrapper.optimizer.zero_grad()

    def our_window() -> None:
        for _ in range(counts):
            training.step()

    times: dict[Callable, list[float]] = {bare_window: [], our_window: []}
    for turn in range(windows + 1):
        for window in list(times)[:: 1 if turn % 2 else -1]:
            synchronize(device)
            start = time.perf_counter()
            window()
            synchronize(device)
            times[window].append(time.perf_counter() - start)
    ratios = [ours / least for least, ours in list(zip(*times.values()))[1:]]  # the first turn warms up
    return dict(micro_batches=counts, window_ms=1e3 * statistics.median(times[our_window][1:]), ratio_to_bare=statistics.median(ratios))
