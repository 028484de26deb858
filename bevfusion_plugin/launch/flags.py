"""What MM's command-line flags change in a config."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log

from bevfusion_plugin.doctor.reading.config import SCALE_HOOK, is_ours, short_name
from bevfusion_plugin.engine.checkpoints.checked_loading import BrokenCheckpoint
from bevfusion_plugin.engine.checkpoints.resuming import checkpoint_meta, newest_whole, resumable_fault
from bevfusion_plugin.plan.batch_plan import RULES
from bevfusion_plugin.plan.checked_settings import one_of, positive

HALF = {'float16': torch.float16, 'bfloat16': torch.bfloat16}
CHECKPOINT_HOOK = 'bevfusion_plugin.CheckpointHook'
AMP_WRAPPER = 'bevfusion_plugin.AccumulativeAmpOptimWrapper'


def set_work_dir(cfg: Config, work_dir: str | None) -> None:
    """Where the run is written: the flag, else the config's ``work_dir``, else ``work_dirs/<config name>``.

    Raises:
        ValueError: If it cannot be a folder that files are written to.
    """
    if work_dir is not None:
        cfg.work_dir = work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = f'work_dirs/{Path(cfg.filename).stem}'
    writable_folder('--work-dir', cfg.work_dir)


def writable_folder(flag: str, folder: str | Path) -> None:
    """Refuse a folder that is a file, lies below one, or cannot be written to; nothing is made.

    Raises:
        ValueError: Naming the flag and the folder.
    """
    there = next(path for path in (Path(folder).absolute(), *Path(folder).absolute().parents) if path.exists())
    if not there.is_dir():
        raise ValueError(f'{flag} {folder}: {there} is a file, not a folder; name another')
    if not os.access(there, os.W_OK):
        raise ValueError(f'{flag} {folder}: {there} cannot be written to; name another')


def set_resume(cfg: Config, resume: str | None) -> None:
    """``'auto'``: from the newest whole checkpoint in the work dir, or from the start if it has none; a path: from that file;
    None: as the config says, whose ``resume=True`` without ``load_from`` means ``'auto'``.

    A resumed run goes on with the seed of its checkpoint unless the config has one: the order of the samples follows from it.

    Raises:
        FileNotFoundError: If the path does not exist.
        BrokenCheckpoint: If a training cannot go on from the path, or from none of the work dir's checkpoints.
    """
    if resume is None and not (cfg.get('resume') and not cfg.get('load_from')):
        return
    path = newest_of_work_dir(cfg.work_dir) if resume in ('auto', None) else named_checkpoint(resume)
    if path is None:
        return  # with resume=True MMEngine would go on from load_from, the checkpoint of another training
    cfg.resume = True
    cfg.load_from = str(path)
    if (cfg.get('randomness') or {}).get('seed') is None:
        cfg.randomness = dict(cfg.get('randomness') or {}, seed=checkpoint_meta(path).get('seed'))


def newest_of_work_dir(work_dir: str) -> Path | None:
    """The checkpoint that ``--resume`` takes, every process the same; what it passes over is logged with the reason.

    Raises:
        BrokenCheckpoint: If there are checkpoints, and none is whole.
    """
    path, passed_over = newest_whole(work_dir)
    for reason in passed_over:
        print_log(f'--resume passes over: {reason}', 'current', logging.WARNING)
    if path is not None:
        print_log(f'--resume goes on from {path}', 'current')
    return path


def named_checkpoint(path: str) -> Path:
    """The checkpoint of ``--resume PATH``.

    Raises:
        FileNotFoundError: If it does not exist.
        BrokenCheckpoint: If a training cannot go on from it.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f'--resume: there is no checkpoint {path}; `--resume` alone takes the newest of the work dir')
    reason = resumable_fault(file)
    if reason is not None:
        raise BrokenCheckpoint(f'--resume: {reason}; `--resume` alone takes the newest whole one of the work dir')
    return file


def set_save_every(cfg: Config, minutes: float) -> None:
    """Write a checkpoint every so many minutes, inside epochs too, beside those that the config asks for.

    Raises:
        ValueError: If ``minutes`` is no number > 0, or the config's checkpoints are neither MMEngine's nor ours.
    """
    positive('--save-every', minutes)
    hooks = cfg.setdefault('default_hooks', ConfigDict())
    hook = hooks.get('checkpoint') or ConfigDict(type=CHECKPOINT_HOOK)
    if short_name(hook) != CHECKPOINT_HOOK.split('.')[-1]:
        raise ValueError(
            f'--save-every does not know the checkpoint hook {short_name(hook)!r}; set default_hooks.checkpoint.type=\'{CHECKPOINT_HOOK}\''
        )
    hooks.checkpoint = ConfigDict(hook, type=CHECKPOINT_HOOK, save_every=minutes)


def set_seed(cfg: Config, seed: int) -> None:
    """The seed of all random numbers; what else the config says of randomness stays."""
    cfg.randomness = dict(cfg.get('randomness') or {}, seed=seed)


def set_deterministic(cfg: Config) -> None:
    """Let the same command give the same weights, bit for bit: MMEngine's ``randomness.deterministic`` and a seed, 0 where none is set.

    Torch then refuses an operation that has no deterministic form, cuDNN neither searches for the fastest algorithm nor takes one that
    adds up in any order, and cuBLAS works in fixed workspaces (``CUBLAS_WORKSPACE_CONFIG``, unless the environment has it).
    """
    randomness = dict(cfg.get('randomness') or {})
    if randomness.get('seed') is None:
        randomness['seed'] = 0
    cfg.randomness = dict(randomness, deterministic=True)
    cfg.setdefault('env_cfg', ConfigDict()).cudnn_benchmark = False
    os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')  # read when CUDA starts, which is later


def half_precision(cfg: Config, dtype: str) -> str | torch.dtype | None:
    """What ``--amp`` means for this config; None: what autocast takes by itself on the device.

    Args:
        cfg: The whole config.
        dtype: ``'float16'``, ``'bfloat16'``, or ``'auto'``: the half precision that the config trains in, float16 if in none.

    Raises:
        ValueError: If there is no such dtype.
    """
    if one_of('--amp', dtype, ('auto', *HALF)) != 'auto':
        return dtype
    wrapper = cfg.get('optim_wrapper') or {}
    is_half = wrapper_name(wrapper) != 'OptimWrapper' and wrapper.get('dtype') in (None, *HALF, *HALF.values())
    return wrapper.get('dtype') if is_half else 'float16'


def wrapper_name(wrapper: Mapping) -> str:
    """The short name of a config's optimizer wrapper, MMEngine's plain one where it names none."""
    return short_name(dict(dict(type='OptimWrapper'), **wrapper))


def set_amp(cfg: Config, dtype: str = 'auto') -> None:
    """Half precision through this package's wrapper: float16 with a loss scale, dynamic where the config gives none, or bfloat16.

    Args:
        cfg: The whole config; it is changed.
        dtype: As for :func:`half_precision`.

    Raises:
        ValueError: If the config's wrapper is neither MMEngine's nor ours, or there is no such dtype.
    """
    half, wrapper = half_precision(cfg, dtype), cfg.optim_wrapper
    kinds = ('OptimWrapper', 'AmpOptimWrapper', AMP_WRAPPER.split('.')[-1])
    name = wrapper_name(wrapper)
    if name not in kinds:
        raise ValueError(f'--amp does not know the optimizer wrapper {name!r}; it takes {", ".join(kinds)}')
    wrapper.type = AMP_WRAPPER
    if half is not None:
        wrapper.dtype = half
    wrapper.setdefault('loss_scale', 'dynamic')


def set_compile(cfg: Config) -> None:
    """Have the parts of our detector that have fixed shapes compiled; arguments that the config gives for that stay.

    Raises:
        ValueError: If the model is another.
    """
    if not is_ours(cfg.get('model'), 'BEVFusion'):
        raise ValueError(
            f'--compile knows bevfusion_plugin.BEVFusion, got the model {(cfg.get("model") or {}).get("type")!r}; for '
            "another, MMEngine's own: --cfg-options compile=True"
        )
    cfg.model.compiled = cfg.model.get('compiled') or True


def set_auto_scale_lr(cfg: Config, rule: str) -> None:
    """Switch LR scaling on with this rule, and bring the hook that does it if the config lacks it.

    Raises:
        ValueError: If the rule is unknown, or the config does not say what batch its LR was tuned for.
    """
    one_of('--auto-scale-lr', rule, tuple(RULES))
    base = (cfg.get('auto_scale_lr') or {}).get('base_batch_size')
    if not isinstance(base, int) or base < 1:
        raise ValueError(
            f'--auto-scale-lr needs auto_scale_lr.base_batch_size, the total batch the LR was tuned for, got {base!r}; add '
            '--cfg-options auto_scale_lr.base_batch_size=32'
        )
    cfg.auto_scale_lr.update(enable=True, rule=rule)
    hooks = list(cfg.get('custom_hooks') or [])
    if not any(short_name(hook) == SCALE_HOOK.split('.')[-1] for hook in hooks if isinstance(hook, dict)):
        cfg.custom_hooks = hooks + [ConfigDict(type=SCALE_HOOK)]
