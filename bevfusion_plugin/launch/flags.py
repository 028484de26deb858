"""From a config file and command-line flags to the config that MMEngine's Runner gets."""
from __future__ import annotations

import datetime
import sys
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict

from bevfusion_plugin.plan.batch_plan import RULES, one_of
from bevfusion_plugin.doctor.reading.plan_settings import last_name

AMP_WRAPPER = 'bevfusion_plugin.AccumulativeAmpOptimWrapper'
SCALE_HOOK = 'bevfusion_plugin.AutoScaleLRHook'
LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


def load_config(path: str | Path, options: dict | None = None) -> Config:
    """The config of ``path`` with ``options`` merged in.

    Args:
        path: MM config file.
        options: What ``--cfg-options`` gave. ``data_root`` moves the whole data set: every path below the old folder, wherever
            it stands in the config, then lies below the new one. (MMEngine would change the variable alone, which nothing reads.)
            A loader with ``num_workers=0`` loses ``persistent_workers`` and ``prefetch_factor``.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f'there is no config {path}')
    cfg = Config.fromfile(str(path))
    options = dict(options or {})
    old, new = cfg.get('data_root'), options.get('data_root')
    if old and new:
        moved = move_root(cfg._cfg_dict.to_dict(), str(old).rstrip('/'), str(new).rstrip('/'))
        cfg = Config(moved, filename=cfg.filename)
    if options:
        cfg.merge_from_dict(options)
    drop_worker_settings(cfg)
    return cfg


def drop_worker_settings(cfg: Config) -> None:
    """Take what only workers can keep or prefetch out of the loaders that have none: PyTorch refuses it there."""
    for name in LOADERS:
        loader = cfg.get(name)
        if isinstance(loader, dict) and loader.get('num_workers') == 0:
            for key in ('persistent_workers', 'prefetch_factor'):
                loader.pop(key, None)


def move_root(value: Any, old: str, new: str) -> Any:
    """``value`` with every string that is ``old`` or lies below it rewritten to lie below ``new``."""
    if isinstance(value, dict):
        return {key: move_root(item, old, new) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(move_root(item, old, new) for item in value)
    if isinstance(value, str) and (value == old or value.startswith(f'{old}/')):
        return new + value[len(old):]
    return value


def set_work_dir(cfg: Config, work_dir: str | None) -> None:
    """Where the run is written: the flag, else the config's ``work_dir``, else ``work_dirs/<config name>``."""
    if work_dir is not None:
        cfg.work_dir = work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = f'work_dirs/{Path(cfg.filename).stem}'


def set_resume(cfg: Config, resume: str | None) -> None:
    """``'auto'``: from the newest checkpoint in the work dir, or from the start if it has none; a path: from that file; None: as
    the config says.

    A resumed run goes on with the seed of its checkpoint unless the config has one: the order of the samples follows from it.

    Raises:
        FileNotFoundError: If the path does not exist.
    """
    if resume is None:
        return
    if resume != 'auto' and not Path(resume).is_file():
        raise FileNotFoundError(f'--resume: there is no checkpoint {resume}; `--resume` alone takes the newest of the work dir')
    newest = Path(cfg.work_dir) / 'last_checkpoint'
    if resume == 'auto' and not newest.is_file():
        return  # with resume=True MMEngine would go on from load_from, the checkpoint of another training
    cfg.resume = True
    cfg.load_from = None if resume == 'auto' else resume
    if (cfg.get('randomness') or {}).get('seed') is None:
        cfg.randomness = dict(cfg.get('randomness') or {}, seed=checkpoint_seed(newest.read_text() if resume == 'auto' else resume))


def checkpoint_seed(path: str) -> int | None:
    """The seed of the run that wrote a checkpoint; None if the file is not here or does not say."""
    if not Path(path).is_file():
        return None
    return torch.load(path, map_location='cpu', mmap=True).get('meta', {}).get('seed')


def set_amp(cfg: Config) -> None:
    """Half precision with a dynamic loss scale, through this package's wrapper.

    Raises:
        ValueError: If the config's wrapper is neither MMEngine's nor ours.
    """
    wrapper = cfg.optim_wrapper
    kinds = ('OptimWrapper', 'AmpOptimWrapper', AMP_WRAPPER.split('.')[-1])
    name = last_name(dict(dict(type='OptimWrapper'), **wrapper))
    if name not in kinds:
        raise ValueError(f'--amp does not know the optimizer wrapper {name!r}; it takes {", ".join(kinds)}')
    wrapper.update(type=AMP_WRAPPER, dtype='float16')
    wrapper.setdefault('loss_scale', 'dynamic')


def set_auto_scale_lr(cfg: Config, rule: str) -> None:
    """Switch LR scaling on with this rule, and bring the hook that does it if the config lacks it.

    Raises:
        ValueError: If the rule is unknown, or the config does not say what batch its LR was tuned for.
    """
    one_of('--auto-scale-lr', rule, tuple(RULES))
    base = (cfg.get('auto_scale_lr') or {}).get('base_batch_size')
    if not isinstance(base, int) or base < 1:
        raise ValueError(f'--auto-scale-lr needs auto_scale_lr.base_batch_size, the total batch the LR was tuned for, got {base!r}; add '
                         '--cfg-options auto_scale_lr.base_batch_size=32')
    cfg.auto_scale_lr.update(enable=True, rule=rule)
    hooks = list(cfg.get('custom_hooks') or [])
    if not any(last_name(hook) == SCALE_HOOK.split('.')[-1] for hook in hooks if isinstance(hook, dict)):
        cfg.custom_hooks = hooks + [ConfigDict(type=SCALE_HOOK)]


def start_cpu_ranks(cfg: Config) -> None:
    """Join the processes that ``torch.distributed.run`` started, where there is no GPU: MMEngine's own start asks for one each.

    Its Runner takes over a process group that is there; its wrapper of the model is told not to look for a device.
    """
    if cfg.launcher != 'pytorch' or torch.cuda.is_available():
        return
    group = dict(cfg.get('env_cfg', {}).get('dist_cfg', {}))
    if 'timeout' in group:
        group['timeout'] = datetime.timedelta(seconds=group['timeout'])
    torch.distributed.init_process_group(**group)
    defaults = dict(broadcast_buffers=False, find_unused_parameters=cfg.get('find_unused_parameters', False))  # MMEngine's
    cfg.model_wrapper_cfg = {**defaults, **(cfg.get('model_wrapper_cfg') or {}), 'device_ids': None}


def rank_command(processes: int, tool: str | Path, *args: str) -> list[str]:
    """Command that runs a tool with MM's ``--launcher`` flag in one process, or in several on this machine at a free port."""
    if processes == 1:
        return [sys.executable, str(tool), *args]
    return [sys.executable, '-m', 'torch.distributed.run', '--standalone', f'--nproc_per_node={processes}', str(tool),
            *args, '--launcher', 'pytorch']
