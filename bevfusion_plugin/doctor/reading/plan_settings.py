"""What a config says about its batch plan, and what stands in for it where there is no config."""

from __future__ import annotations

import math
from typing import Any

from mmengine.config import Config

from bevfusion_plugin.doctor.reading.config import entries, mapping, short_name
from bevfusion_plugin.doctor.reading.model import trainable_batch_norms
from bevfusion_plugin.doctor.reading.nuscenes import BALANCED_FRAMES, known_samples
from bevfusion_plugin.plan.judgement import Training, WarmUp

# The reference's training of lidar + camera, which flags alone are measured against: mmdetection3d projects/BEVFusion.
REFERENCE = dict(samples=BALANCED_FRAMES, epochs=6, lr=2e-4, rule='linear', warm_up=WarmUp(500 / 23_172, 'share'))
TRAINING_KEYS = ('world_size', 'base_batch_size', 'lr', 'samples', 'epochs', 'rule', 'warm_up', 'flush', 'batch_norm')
PEAK_SHARES = dict(OneCycleParamScheduler=0.4, OneCycleLR=0.3)  # where the LR peaks by default: ours, MMEngine's
MENDS = dict(
    world_size='give --gpus',
    base_batch_size='give --base-batch-size, the total batch that the LR was tuned for (auto_scale_lr.base_batch_size)',
    lr='give --lr (optim_wrapper.optimizer.lr)',
    samples='give --samples, the samples an epoch; they are known for the full nuScenes alone',
    epochs='give --epochs (train_cfg.max_epochs)',
)


def settings_of(cfg: Config) -> dict[str, Any]:
    """Fields of :class:`Training`, ``samples_per_rank``, ``accumulative_counts`` and ``total_batch_size``, each if ``cfg`` tells.

    Args:
        cfg: The whole config. The number of GPUs stands in its variable ``num_gpus``, if it has one.
    """
    wrapper, scaling = mapping(cfg.get('optim_wrapper')), mapping(cfg.get('auto_scale_lr'))
    optimizer = mapping(wrapper.get('optimizer'))
    counts = wrapper.get('accumulative_counts', 1)
    found = dict(
        world_size=cfg.get('num_gpus'),
        base_batch_size=scaling.get('base_batch_size'),
        lr=optimizer.get('lr'),
        samples=known_samples(cfg),
        epochs=mapping(cfg.get('train_cfg')).get('max_epochs'),
        rule=scaling.get('rule', 'linear') if scaling.get('enable') else 'none',
        warm_up=warm_up_of(cfg.get('param_scheduler'), optimizer.get('lr')),
        flush=flush_of(wrapper),
        batch_norm=bool(trainable_batch_norms(cfg, synced=False)),
        samples_per_rank=mapping(cfg.get('train_dataloader')).get('batch_size'),
        accumulative_counts=None if counts == 'auto' else counts,
        total_batch_size=wrapper.get('total_batch_size'),
    )
    return {name: value for name, value in found.items() if value is not None}


def training_from(settings: dict[str, Any]) -> Training:
    """The training that ``settings`` describe.

    Raises:
        ValueError: If something is missing that nothing can stand in for; all of it is named.
    """
    missing = [mend for name, mend in MENDS.items() if settings.get(name) is None]
    if missing:
        raise ValueError(f'the plan cannot be worked out yet; {"; ".join(missing)}')
    return Training(**{name: settings[name] for name in TRAINING_KEYS if name in settings})


def warm_up_of(schedulers: list | dict | None, lr: float | None = None) -> WarmUp:
    """How long the LR rises from the start: for as long as the first scheduler lets it.

    Args:
        schedulers: ``param_scheduler`` of a config. Types that are not known to rise count as no warm-up.
        lr: The optimizer's LR, from which a cosine rises if it ends above.
    """
    listed = entries(schedulers)
    first = next((each for each in listed if 'Momentum' not in short_name(each) and not each.get('begin')), {})
    name, by_epoch, end = short_name(first), first.get('by_epoch', True), first.get('end', 0)
    if name in PEAK_SHARES:
        return WarmUp(first.get('pct_start', PEAK_SHARES[name]), 'share')
    if name == 'CosineAnnealingParamScheduler':
        return WarmUp(first.get('warmup_iters', 0), 'updates')
    if name == 'CosineWarmupLR':
        return WarmUp(end, 'epochs' if by_epoch else 'updates')
    linear = name == 'LinearLR' and first.get('start_factor', 1 / 3) < first.get('end_factor', 1)
    rises = linear or name == 'ConstantLR' or name == 'CosineAnnealingLR' and first.get('eta_min', 0) > (lr or math.inf)
    return WarmUp(end if rises else 0, 'epochs' if by_epoch else 'micro-batches')


def flush_of(wrapper: dict) -> str:
    """Where a wrapper's windows end: with the epoch by our default, with the training by MMEngine's."""
    return wrapper.get('flush', 'epoch') if short_name(wrapper) == 'AccumulativeAmpOptimWrapper' else 'train'
