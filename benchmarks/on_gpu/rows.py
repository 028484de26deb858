"""The table: memory and speed of one training step for each number of samples, precision, checkpointing and sparse backend."""

from __future__ import annotations

import gc
import importlib.util
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any

import torch
from mmengine.config import Config
from on_gpu.training import Training, synchronize

from bevfusion_plugin.ops.sparse.backend import PACKAGES, VARIABLE, sparse_backend

GIB = 1024**3
DTYPES = ('float16', 'bfloat16', 'float32')
WARM_UP = 2  # steps: cuDNN and the allocator settle


def backends(device: str) -> list[str]:
    """Sparse backends that are installed and meant for the device."""
    packages = [name for name in PACKAGES if importlib.util.find_spec(name)] if device == 'cuda' else []
    return [*packages, 'torch']


def chosen_backend(device: str, dtype: str) -> str:
    """The backend that sparse convolutions take on this device."""
    return sparse_backend(torch.device(device, 0) if device == 'cuda' else torch.device(device), getattr(torch, dtype)).name


@contextmanager
def forced_backend(name: str | None) -> Iterator[None]:
    """Within it sparse convolutions run in this backend; None: in the one that is chosen by itself."""
    before = os.environ.pop(VARIABLE, None)
    if name is not None:
        os.environ[VARIABLE] = name
    sparse_backend.cache_clear()
    try:
        yield
    finally:
        os.environ.pop(VARIABLE, None)
        if before is not None:
            os.environ[VARIABLE] = before
        sparse_backend.cache_clear()


def settings(device: str, samples: list[int]) -> list[dict[str, Any]]:
    """The rows to measure, the ones most asked for first: what is left undone at the end of the time are the last."""
    rows = [
        dict(backend=backend, dtype=dtype, with_cp=with_cp, samples=b)
        for backend, dtype, with_cp, b in product(backends(device), DTYPES, (False, True), samples)
    ]
    return [row for row in rows if not (row['dtype'] == 'bfloat16' and row['backend'] != 'torch')]  # packages have none: it is torch's


def measured(cfg: Config, device: str, row: dict[str, Any], steps: int, share: float) -> dict[str, Any]:
    """The row with ``gib``, ``reserved_gib``, ``step_ms`` and ``samples_per_second``, or with ``error`` in their place."""
    try:
        release(device)
        with forced_backend(row['backend']):
            return row | _measured(cfg, device, row, steps, share)
    except torch.cuda.OutOfMemoryError:
        return row | dict(error='out of memory')
    except Exception as error:  # of whatever kind: the other rows are still wanted
        return row | dict(error=f'{type(error).__name__}: {error}'.splitlines()[0][:200])


def _measured(cfg: Config, device: str, row: dict[str, Any], steps: int, share: float) -> dict[str, Any]:
    training = Training(cfg, device, row['samples'], row['dtype'], row['with_cp'], share=share)
    for _ in range(WARM_UP):
        training.step()
    synchronize(device)
    start = time.perf_counter()
    for _ in range(steps):
        training.step()
    synchronize(device)
    seconds = (time.perf_counter() - start) / steps
    memory: dict[str, float | None] = dict(gib=None, reserved_gib=None)
    if device == 'cuda':
        memory = dict(gib=torch.cuda.max_memory_allocated() / GIB, reserved_gib=torch.cuda.max_memory_reserved() / GIB)
    return dict(memory, step_ms=1e3 * seconds, samples_per_second=row['samples'] / seconds, skipped=training.wrapper.skipped_updates)


def release(device: str) -> None:
    """Free what earlier rows held, and begin to note the highest memory anew."""
    gc.collect()
    if device == 'cuda':
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
