"""Loads the recorded reference numbers; a test that needs some skips with a reason where they are absent.

The numbers were computed in float32 on one CPU. Where sums cancel, or round-off decides the side of a ReLU's kink, float32 on
another CPU or another number of threads differs from them by more than the tolerance. There a test computes in float64: what is
left is the recording's own round-off, the same on every machine.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

TESTS = Path(__file__).parents[1]
DATA = TESTS / 'data'
SHARED = TESTS.parents[1] / 'shared'


@dataclass
class Golden:
    """One recorded case: ``meta`` is the json beside it, ``arrays`` maps array names to numpy arrays."""

    meta: dict
    arrays: dict[str, np.ndarray]

    def __getitem__(self, name: str) -> torch.Tensor:
        return torch.from_numpy(np.array(self.arrays[name]))

    def group(self, prefix: str) -> dict[str, torch.Tensor]:
        """Tensors whose name starts with ``prefix``, by the rest of the name."""
        return {name[len(prefix) :]: self[name] for name in self.arrays if name.startswith(prefix)}

    def series(self, prefix: str) -> list[torch.Tensor]:
        """``prefix0``, ``prefix1``, ... as a list."""
        found = []
        while f'{prefix}{len(found)}' in self.arrays:
            found.append(self[f'{prefix}{len(found)}'])
        return found


def golden_path(name: str, folder: str = 'bevfusion') -> Path:
    """Where ``name`` lies: in ``tests/data`` or beside the checkout; skips the test if in neither."""
    for root in (DATA, SHARED / 'goldens'):
        if (root / folder / name).is_file():
            return root / folder / name
    pytest.skip(f'{folder}/{name} is not in tests/data and there is no ../shared/goldens beside the checkout')


def load_golden(name: str, folder: str = 'bevfusion') -> Golden:
    """The case ``name`` (without ending)."""
    meta = json.loads(golden_path(f'{name}.json', folder).read_text())
    with np.load(golden_path(f'{name}.npz', folder)) as arrays:
        return Golden(meta, {key: arrays[key] for key in arrays.files})


def nuscenes_sample() -> Path:
    """Folder of the real nuScenes frame, from NUSCENES_SAMPLE or ../shared; skips the test without it."""
    folder = Path(os.environ.get('NUSCENES_SAMPLE', SHARED / 'data' / 'nuscenes_one_frame'))
    if not folder.is_dir():
        pytest.skip('needs a real nuScenes frame (non-commercial licence): set NUSCENES_SAMPLE to its folder')
    return folder


def assert_close(actual: torch.Tensor, expected: torch.Tensor, rel: float, what: str = '') -> None:
    """The largest difference, relative to the largest expected element, is at most ``rel``."""
    assert tuple(actual.shape) == tuple(expected.shape), f'{what}: {tuple(actual.shape)} != {tuple(expected.shape)}'
    if expected.numel() == 0:
        return
    expected = expected.double()
    error = (actual.detach().cpu().double() - expected).abs().max() / expected.abs().max().clamp(min=1e-12)
    assert error <= rel, f'{what}: relative error {error:.3e} > {rel:.1e}'
