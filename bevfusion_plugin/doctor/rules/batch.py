"""Rules about the total batch: what the learning rate is for it, what accumulation does to it, what BatchNorm sees of it.

Letters: W ranks, b samples a rank a micro-batch, A micro-batches a window, B = W*b*A total batch, B0 base batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch

from bevfusion_plugin.doctor.case import Case, knows_iterations, trace_of
from bevfusion_plugin.doctor.finding import MMENGINE, Problem, rule
from bevfusion_plugin.doctor.reading.config import (
    SCALE_HOOK,
    auto_scale_lr,
    has_hook,
    is_ours,
    learning_rate,
    mapping,
    moves_momentum,
    number,
    optim_wrapper,
    param_schedulers,
    scale_hook,
    scheduler_keys,
    short_name,
)
from bevfusion_plugin.doctor.reading.model import has_transfusion_head, trainable_batch_norms
from bevfusion_plugin.plan.batch_plan import BatchPlan

SLACK = 0.25  # share by which the LR may miss what the linear or the square-root rule gives
NEGLIGIBLE = 0.01  # share of the LR below which an absolute floor shapes nothing


def plan_of(case: Case) -> BatchPlan | None:
    """The plan; None also where the config's numbers make none, which ``batch-plan-impossible`` reports."""
    try:
        return case.plan
    except ValueError:
        return None


def applied_ratio(case: Case, plan: BatchPlan) -> float:
    """What a training multiplies the config's learning rate by: our hook's ratio, MMEngine's W*b / B0, or 1.

    Args:
        case: The config.
        plan: Its plan, with a base batch.
    """
    is_on, hook = bool(auto_scale_lr(case.cfg).get('enable', False)), scale_hook(case.cfg)
    if not hook:
        return dataclasses.replace(plan, accumulative_counts=1, rule='linear').lr_ratio if is_on else 1.0
    enabled = is_on if hook.get('enable') is None else bool(hook['enable'])
    return plan.lr_ratio if enabled else 1.0


def scaling_changes(case: Case) -> dict[str, Any]:
    """Changes that switch linear scaling on, by our hook, which counts accumulation and moves peaks and floors too."""
    changes: dict[str, Any] = {'auto_scale_lr.enable': True}
    if auto_scale_lr(case.cfg).get('rule') == 'none':
        changes['auto_scale_lr.rule'] = 'linear'
    if not scale_hook(case.cfg):
        changes['default_hooks.auto_scale_lr'] = dict(type=SCALE_HOOK)
    for index, hook in enumerate(case.cfg.get('custom_hooks') or []):
        if is_ours(hook, 'AutoScaleLRHook') and hook.get('enable') is False:
            changes[f'custom_hooks.{index}.enable'] = True
    return changes


def _stock_scaling(case: Case) -> bool:
    return bool(auto_scale_lr(case.cfg).get('enable', False)) and not scale_hook(case.cfg)


@rule('batch-plan-impossible', 'error', 'bevfusion_plugin/plan/batch_plan.py')
def check_plan(case: Case) -> Iterator[Problem]:
    """Batch size, accumulation, total batch and scaling rule fit together."""
    try:
        case.plan
    except ValueError as error:
        yield Problem(f'the total batch cannot be worked out: {error}', 'correct the setting that the message names')


@rule('auto-scale-not-a-switch', 'error', f'{MMENGINE}/runner/runner.py#L951')
def check_switch(case: Case) -> Iterator[Problem]:
    """``auto_scale_lr.enable`` is True or False: text is true, also the text 'False'."""
    value = auto_scale_lr(case.cfg).get('enable', False)
    if not isinstance(value, bool):
        meant = str(value).strip().lower() in ('true', '1', 'on', 'yes')
        yield Problem(
            f'auto_scale_lr.enable must be True or False, got {value!r}, which counts as {bool(value)}',
            'write it without quotes',
            {'auto_scale_lr.enable': meant} if isinstance(value, str) else {},
        )


# ---- learning rate


@rule('lr-off-the-batch', 'error', 'https://github.com/mit-han-lab/bevfusion/issues/619')
def check_lr(case: Case) -> Iterator[Problem]:
    """The learning rate follows the total batch by the linear or the square-root rule, within a quarter."""
    plan = plan_of(case)
    if plan is None or plan.base_batch_size is None:
        return
    linear = plan.total_batch_size / plan.base_batch_size
    applied, by_rule = applied_ratio(case, plan), sorted((linear, linear**0.5))
    if (1 - SLACK) * by_rule[0] <= applied <= (1 + SLACK) * by_rule[1]:
        return
    peak = _unscaled_peak(case, applied)
    rates = f': {peak * linear:.3g} by the linear rule, {peak * linear**0.5:.3g} by the square root' if peak else ''
    yield Problem(
        f'the learning rate{f" of {peak:.4g}" if peak else ""} was tuned for a batch of {plan.base_batch_size} and is '
        f'{"kept" if applied == 1 else f"multiplied by {applied:.4g}"}, but an update sees {plan}{rates}',
        'switch auto_scale_lr on (with bevfusion_plugin.AutoScaleLRHook), set the LR to what a rule gives, or choose '
        'accumulative_counts so that the total is the base batch',
        scaling_changes(case),
        severity='error' if applied > 2 * linear * (1 + 1e-9) else 'warning',
    )


def _unscaled_peak(case: Case, applied: float) -> float | None:
    """The optimizer's ``lr``, or where a schedule rises above it the highest LR; before any scaling."""
    trace = trace_of(case)
    return max([learning_rate(case.cfg) or 0, *([float(trace.lr[trace.peak]) / applied] if trace else [])]) or None


@rule('auto-scale-off', 'warning', 'https://github.com/open-mmlab/mmdetection3d/issues/2967')
def check_scaling_is_on(case: Case) -> Iterator[Problem]:
    """Scaling is on where the batch is another than the base batch; silent where ``lr-off-the-batch`` says more."""
    plan = plan_of(case)
    if plan is None or plan.base_batch_size in (None, plan.total_batch_size) or list(check_lr(case)):
        return
    if not auto_scale_lr(case.cfg).get('enable', False) and not scale_hook(case.cfg).get('enable'):
        yield Problem(
            f'auto_scale_lr.enable is False and an update sees {plan}, not the {plan.base_batch_size} that the LR was tuned for',
            'set auto_scale_lr.enable=True, or pass --auto-scale-lr',
            scaling_changes(case),
        )


@rule('accumulation-not-scaled', 'error', f'{MMENGINE}/runner/runner.py#L957')
def check_accumulation_counts(case: Case) -> Iterator[Problem]:
    """LR scaling counts accumulation: MMEngine's own does not, our hook does."""
    plan = plan_of(case)
    if plan is None or plan.accumulative_counts == 1 or plan.base_batch_size is None or not _stock_scaling(case):
        return
    ratio, A = applied_ratio(case, plan), plan.accumulative_counts
    yield Problem(
        f"auto_scale_lr is MMEngine's own, which leaves accumulative_counts={A} out: it multiplies the LR by "
        f'{ratio:.4g}; {plan} over {plan.base_batch_size} is {ratio * A:.4g}',
        "add dict(type='bevfusion_plugin.AutoScaleLRHook') to custom_hooks",
        scaling_changes(case),
    )


@rule('absolute-lr-not-scaled', 'error', 'https://github.com/open-mmlab/mmdetection3d/issues/3103')
def check_absolute_rates(case: Case) -> Iterator[Problem]:
    """With MMEngine's own LR scaling no scheduler has an absolute ``eta_min`` or ``eta_max``, which it does not scale."""
    plan = plan_of(case)
    if plan is None or plan.base_batch_size is None or not _stock_scaling(case) or applied_ratio(case, plan) == 1:
        return
    rate = learning_rate(case.cfg) or 0
    for key, entry in zip(scheduler_keys(case.cfg), param_schedulers(case.cfg)):
        for name in ('eta_min', 'eta_max'):
            value = number(entry.get(name))
            if value and value > 0 and not moves_momentum(entry):
                yield Problem(
                    f'{key}: {short_name(entry)} has {name}={value:.4g}, which stays as it is while auto_scale_lr '
                    f"multiplies the optimizer's lr by {applied_ratio(case, plan):.4g}",
                    'give eta_min_ratio instead, or let bevfusion_plugin.AutoScaleLRHook scale every learning rate',
                    scaling_changes(case),
                    severity='warning' if value <= NEGLIGIBLE * rate else None,
                )


@rule('few-updates', 'warning', 'https://github.com/mit-han-lab/bevfusion/issues/619')
def check_updates(case: Case) -> Iterator[Problem]:
    """The training makes at least half as many updates as it would with the base batch."""
    plan, trace = plan_of(case), trace_of(case)
    if plan is None or plan.base_batch_size is None or plan.total_batch_size <= 2 * plan.base_batch_size:
        return
    updates = ''
    if trace is not None and case.samples and knows_iterations(case, trace):
        reference = round(trace.epochs * -(-case.samples // plan.base_batch_size))
        updates = f': {trace.updates:,} instead of {reference:,}'
    yield Problem(
        f'{plan} makes {plan.base_batch_size / plan.total_batch_size:.0%} of the updates that the base batch of '
        f'{plan.base_batch_size} would{updates}',
        'raise the learning rate or the number of epochs, or lower accumulative_counts',
        severity='info' if applied_ratio(case, plan) > 1 else None,
    )


# ---- BatchNorm


def _ranks_share_statistics(case: Case) -> bool:
    return case.world_size > 1 and case.cfg.get('sync_bn') in ('torch', 'mmcv')


@rule('accumulated-batchnorm', 'error', 'https://github.com/mit-han-lab/bevfusion/issues/355')
def check_accumulated_batch_norm(case: Case) -> Iterator[Problem]:
    """BatchNorm sees one micro-batch, not the window: accumulation does not replace its samples, and one sample is too few."""
    plan = plan_of(case)
    if plan is None or plan.accumulative_counts == 1:
        return
    synced = _ranks_share_statistics(case)
    found = trainable_batch_norms(case.cfg, synced=case.world_size == 1)
    if not found or synced:
        return
    b, A = plan.samples_per_rank, plan.accumulative_counts
    lidar = has_transfusion_head(case.cfg) and 'img_backbone' not in mapping(case.cfg.get('model'))
    stage = "; this is BEVFusion's lidar stage, whose authors advise against accumulating" if lidar else ''
    changes: dict[str, Any] = {'sync_bn': 'torch'}
    if case.world_size == 1:
        factor = next(number for number in range(2, A + 1) if A % number == 0)  # the total batch stays
        changes = {'train_dataloader.batch_size': b * factor, 'optim_wrapper.accumulative_counts': A // factor}
    yield Problem(
        f'{len(found)} parts of the model have a BatchNorm that learns ({_some(found)}); it sees {b} sample'
        f'{"s" * (b > 1)} at a time, not the {plan.total_batch_size} of an update{stage}',
        "more samples a GPU and less accumulation, sync_bn='torch' on several GPUs, or statistics frozen by norm_eval",
        changes if b == 1 else {},
        severity=None if b == 1 else 'warning',
    )


@rule('sync-bn-without-effect', 'error', f'{MMENGINE}/model/utils.py')
def check_sync_bn(case: Case) -> Iterator[Problem]:
    """``sync_bn`` that MMEngine leaves out, or that cannot work where the run is about to start."""
    wanted = case.cfg.get('sync_bn')
    if wanted is None:
        return
    if wanted not in ('torch', 'mmcv'):
        yield Problem(
            f"sync_bn={wanted!r} is no kind of SyncBatchNorm that MMEngine knows", "set sync_bn='torch', or None", {'sync_bn': 'torch'}
        )
    elif case.world_size == 1:
        yield Problem(
            f'sync_bn={wanted!r} does nothing in one process: there is no other rank to share statistics with',
            'start on several GPUs, or leave it out',
            severity='info',
        )
    elif case.starting == 'train' and not torch.cuda.is_available():
        yield Problem(
            f'sync_bn={wanted!r} needs GPUs: the layers refuse tensors on a CPU', 'leave it out here (sync_bn=None)', {'sync_bn': None}
        )


@rule('unsynchronised-batchnorm', 'warning', 'https://github.com/open-mmlab/mmdetection/issues/3573')
def check_buffers(case: Case) -> Iterator[Problem]:
    """Before a validation on several ranks the statistics of BatchNorm are made the same on all of them."""
    validates = bool(case.cfg.get('val_dataloader')) and bool(optim_wrapper(case.cfg))
    if case.world_size < 2 or not validates or _ranks_share_statistics(case) or has_hook(case.cfg, 'SyncBuffersHook'):
        return
    found = trainable_batch_norms(case.cfg, synced=False)
    if found:
        yield Problem(
            f'each of the {case.world_size} ranks keeps its own BatchNorm statistics ({_some(found)}) and validates with '
            'them; the checkpoint holds those of rank 0, so a later test gives other scores',
            "add default_hooks.sync_buffers=dict(type='SyncBuffersHook'), or set sync_bn='torch'",
            {'default_hooks.sync_buffers': dict(type='SyncBuffersHook')},
        )


def _some(paths: list[str]) -> str:
    return ', '.join(paths[:3]) + (', ...' if len(paths) > 3 else '')


# ---- windows


@rule('partial-window', 'info', f'{MMENGINE}/optim/optimizer/optimizer_wrapper.py')
def check_partial_window(case: Case) -> Iterator[Problem]:
    """An epoch is a whole number of windows."""
    plan, length = plan_of(case), case.batches_per_epoch if plan_of(case) else None
    if plan is None or length is None or not plan.partial_window(length):
        return
    wrapper = optim_wrapper(case.cfg)
    ours = is_ours(wrapper) and wrapper.get('flush', 'epoch') == 'epoch'
    then = (
        'its last update is made from that many, weighted as a whole one'
        if ours
        else 'the window runs on into the next epoch, and a checkpoint between them loses its gradients'
    )
    yield Problem(
        f'{length:,} micro-batches an epoch are no multiple of accumulative_counts={plan.accumulative_counts}: '
        f'{plan.partial_window(length)} are left over; {then}',
        'nothing has to be mended' if ours else "use bevfusion_plugin.AccumulativeAmpOptimWrapper with flush='epoch'",
    )
