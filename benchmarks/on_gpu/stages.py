"""Where the time of a step goes: by stage with the device's own clock, and launches and waits as the profiler counts them."""

from __future__ import annotations

import functools
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import torch
from on_gpu.training import Training, synchronize
from torch.profiler import ProfilerActivity, profile

# Stage -> what of the training is timed for it. `head and losses` and `backward` wrap whole calls, the others modules.
STAGES = {
    'data preprocessor': 'model.data_preprocessor.forward',
    'image backbone': 'model.img_backbone.forward',
    'image neck': 'model.img_neck.forward',
    'view transform': 'model.view_transform.forward',
    'voxelize': 'model.voxelize',
    'sparse encoder': 'model.pts_middle_encoder.forward',
    'fuser': 'model.fusion_layer.forward',
    'BEV backbone': 'model.pts_backbone.forward',
    'BEV neck': 'model.pts_neck.forward',
    'head and losses': 'model.bbox_head.loss',
    'backward': 'wrapper.backward',
    'update': 'wrapper.step',
}
# Calls of the CUDA runtime and driver, as Kineto names them.
LAUNCHES = ('cudaLaunchKernel', 'cudaLaunchKernelExC', 'cuLaunchKernel', 'cuLaunchKernelEx')
WAITS = ('cudaStreamSynchronize', 'cudaEventSynchronize', 'cudaDeviceSynchronize')


class StageClock:
    """Within ``with StageClock(training) as clock:`` each stage of each step is timed, on the device that it runs on."""

    def __init__(self, training: Training) -> None:
        self._training = training
        self._spans: list[tuple[str, Any, Any]] = []
        self._undo: list[tuple[Any, str, Any]] = []  # object, its method, what the object itself had in its place

    def __enter__(self) -> StageClock:
        for stage, path in STAGES.items():
            owner: Any = self._training
            *steps, method = path.split('.')
            for step in steps:
                owner = getattr(owner, step)
            if owner is not None:
                self._undo.append((owner, method, owner.__dict__.get(method)))
                setattr(owner, method, self._timed(stage, getattr(owner, method)))
        return self

    def __exit__(self, *error: Any) -> None:
        for owner, method, before in self._undo:
            delattr(owner, method) if before is None else setattr(owner, method, before)

    def _timed(self, stage: str, run: Callable) -> Callable:
        @functools.wraps(run)
        def timed(*args: Any, **kwargs: Any) -> Any:
            start = self._now()
            result = run(*args, **kwargs)
            self._spans.append((stage, start, self._now()))
            return result

        return timed

    def _now(self) -> Any:
        if self._training.device != 'cuda':
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def milliseconds(self) -> dict[str, float]:
        """Median of each stage over all steps."""
        synchronize(self._training.device)
        times: dict[str, list[float]] = {}
        for stage, start, end in self._spans:
            times.setdefault(stage, []).append(1e3 * (end - start) if isinstance(start, float) else start.elapsed_time(end))
        return {stage: statistics.median(times[stage]) for stage in STAGES if stage in times}


def stage_times(training: Training, steps: int) -> dict[str, float]:
    """Milliseconds of each stage of a step, and of the whole of it by the host's clock (``whole step``)."""
    training.step()
    whole = []
    with StageClock(training) as clock:
        for _ in range(steps):
            synchronize(training.device)
            start = time.perf_counter()
            training.step()
            synchronize(training.device)
            whole.append(1e3 * (time.perf_counter() - start))
    return clock.milliseconds() | {'whole step': statistics.median(whole)}


def launches_and_waits(training: Training) -> dict[str, int]:
    """Kernel launches, waits of the host and copies of one step, and torch's operations behind them."""
    training.step()
    synchronize(training.device)
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (training.device == 'cuda')
    with profile(activities=activities) as profiler:
        training.step()
    counts = counted(event.name for event in profiler.events())
    return counts if training.device == 'cuda' else dict(operations=counts['operations'])


def counted(names: Iterable[str]) -> dict[str, int]:
    """Numbers of launches, waits and copies among the names of the profiler's events."""
    counts = Counter(names)
    return dict(
        launches=sum(counts[name] for name in LAUNCHES),
        waits=sum(counts[name] for name in WAITS),
        copies_to_device=sum(count for name, count in counts.items() if name.startswith('Memcpy HtoD')),
        copies_to_host=sum(count for name, count in counts.items() if name.startswith('Memcpy DtoH')),
        operations=sum(count for name, count in counts.items() if name.startswith('aten::')),
    )
