"""What ``benchmarks/gpu.py`` measured on a GPU, read back in place of estimates."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from bevfusion_plugin.doctor.reading.config import to_plain
from bevfusion_plugin.plan.memory_model import GIB

MODEL_KEYS = (
    'type',
    'img_backbone',
    'img_neck',
    'view_transform',
    'pts_middle_encoder',
    'fusion_layer',
    'pts_backbone',
    'pts_neck',
    'bbox_head',
    'data_preprocessor',
)
MEASURED = 'in use at most (measured)'
MEASUREMENTS = Path(__file__).resolve().parents[3] / 'docs' / 'gpu.json'  # of a checkout
Rows = Callable[[int], Mapping[str, float]]


def model_key(cfg: Config) -> str:
    """Checksum of what the memory of a training depends on: the model's parts, without their initial weights, and the optimizer."""
    model = {key: to_plain(value) for key, value in cfg.model.items() if key in MODEL_KEYS}
    model['img_backbone'] = {key: value for key, value in (model.get('img_backbone') or {}).items() if key not in ('init_cfg', 'with_cp')}
    text = json.dumps([model, cfg.optim_wrapper['optimizer']['type']], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_measurements(path: str | Path) -> dict[str, Any]:
    """The record of ``benchmarks/gpu.py``.

    Raises:
        ValueError: If the file is none.
    """
    try:
        record = json.loads(Path(path).read_text())
    except ValueError as error:
        raise ValueError(f'{path} is no JSON ({error}); benchmarks/gpu.py writes it') from error
    if not isinstance(record, dict) or record.get('version') != 1 or not isinstance(record.get('rows'), list):
        raise ValueError(f'{path} is no record of benchmarks/gpu.py; run it on the GPU, or leave --measured out')
    return record


def measured_bytes(record: dict[str, Any], cfg: Config, dtype: torch.dtype, with_cp: bool, gpu_memory: float) -> dict[int, float]:
    """Bytes that a step had reserved at most, by samples; inf for one that ran out of a GPU no smaller than this one.

    Empty where the record is of another model. Of several sparse backends the first counts: it is the one a training takes.

    Args:
        record: From :func:`read_measurements`.
        cfg: The whole config.
        dtype: What autocast casts to; float32 for none.
        with_cp: Activation checkpointing.
        gpu_memory: GiB of the GPU that is planned for.
    """
    if record.get('model') != model_key(cfg):
        return {}
    found: dict[int, float] = {}
    for row in record['rows']:
        if (row['dtype'], row['with_cp']) != (str(dtype).removeprefix('torch.'), with_cp) or row['samples'] in found:
            continue
        if row.get('reserved_gib'):
            found[row['samples']] = row['reserved_gib'] * GIB
        elif row.get('error') == 'out of memory' and gpu_memory <= record['machine']['gib']:
            found[row['samples']] = float('inf')
    return found


def known_rows(rows_of: Rows, cfg: Config, dtype: torch.dtype, with_cp: bool, gpu_memory: float, path: Path | None = None) -> Rows:
    """``rows_of``, or what the record at ``path`` holds in its place; without ``path`` that of this checkout, if there is one.

    Args:
        rows_of: As for :func:`with_measurements`.
        cfg, dtype, with_cp, gpu_memory: As for :func:`measured_bytes`.
        path: Of what ``benchmarks/gpu.py`` wrote.

    Raises:
        ValueError: If the file is no record.
    """
    if path is None and not MEASUREMENTS.is_file():
        return rows_of
    return with_measurements(rows_of, measured_bytes(read_measurements(path or MEASUREMENTS), cfg, dtype, with_cp, gpu_memory))


def with_measurements(rows_of: Rows, measured: dict[int, float]) -> Rows:
    """``rows_of`` with what one process reserves replaced by what was measured, where it was; what it does not show stays.

    Args:
        rows_of: Function that gives for b samples the bytes by what needs them.
        measured: From :func:`measured_bytes`.
    """
    unseen = ('buckets of DistributedDataParallel', 'moving average of the weights')

    def rows(samples: int) -> Mapping[str, float]:
        computed = rows_of(samples)
        if samples not in measured:
            return computed
        kept = {name: size for name, size in computed.items() if name in unseen or name.startswith('CUDA context')}
        return {MEASURED: measured[samples], **kept}

    return rows
