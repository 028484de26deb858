"""Rules about a single update, its precision and clipping, and about how often its results are validated and kept."""

from __future__ import annotations

from collections.abc import Iterator

from mmengine.registry import OPTIMIZERS

from bevfusion_plugin.doctor.buildable import argument_names
from bevfusion_plugin.doctor.case import Case
from bevfusion_plugin.doctor.finding import MMENGINE, Problem, rule
from bevfusion_plugin.doctor.reading.config import (
    count,
    full_name,
    has_hook,
    is_adam,
    is_ours,
    mapping,
    max_epochs,
    number,
    optim_wrapper,
    optimizer_cfg,
    parts,
    precision_of,
    short_name,
    train_cfg,
)
from bevfusion_plugin.doctor.reading.model import has_transfusion_head

DEFAULT_CONSTRUCTOR = 'DefaultOptimWrapperConstructor'
READ_BY_DEFAULT = ('lr_mult', 'decay_mult')
ADAM_EPS = 1e-8  # torch's default
CLIP = dict(max_norm=35, norm_type=2)


@rule('small-adam-eps', 'info', 'https://github.com/traveller59/spconv/issues/513')
def check_adam_eps(case: Case) -> Iterator[Problem]:
    """Adam's eps is not torch's smallest where sparse convolutions run in half precision.

    For information only: Adam's state is float32 under autocast, so that a larger eps is a remedy to keep at hand.
    """
    if not (precision_of(case.cfg) == 'float16' and is_adam(case.cfg)) or not _sparse_encoders(case):
        return
    eps = number(optimizer_cfg(case.cfg).get('eps', ADAM_EPS))
    if eps is not None and eps <= ADAM_EPS:
        yield Problem(
            f'sparse convolutions ({_sparse_encoders(case)[0]}) run in half precision with Adam eps={eps:g}; users of spconv met NaN there',
            'if the loss becomes NaN: optim_wrapper.optimizer.eps=1e-4, or dtype="bfloat16"',
        )


def _sparse_encoders(case: Case) -> list[str]:
    return [path for path, part in parts(case.cfg.get('model')) if 'Sparse' in short_name(part)]


@rule('unwatched-float16', 'warning', 'https://github.com/mit-han-lab/bevfusion/issues/288')
def check_float16(case: Case) -> Iterator[Problem]:
    """In half precision skipped updates are counted: more than 1 % of them after the first 2,000 is a divergence."""
    wrapper = optim_wrapper(case.cfg)
    if precision_of(case.cfg) != 'float16' or is_ours(wrapper) and has_hook(case.cfg, 'TrainingMonitorHook'):
        return
    lacking = 'TrainingMonitorHook is not there' if is_ours(wrapper) else f'{short_name(wrapper)} does not count them'
    monitor = dict(type='bevfusion_plugin.TrainingMonitorHook')
    changes = {'default_hooks.training_monitor': monitor} if is_ours(wrapper) else {}
    yield Problem(
        f'updates that the loss scaler skips leave no trace in the log: {lacking}',
        'use bevfusion_plugin.AccumulativeAmpOptimWrapper and TrainingMonitorHook, or bfloat16, which skips none; if '
        'the matching fails on NaN costs, train the first epoch in float32',
        changes,
    )


@rule('gradient-clipping', 'warning', 'https://github.com/open-mmlab/mmdetection3d/issues/3103')
def check_clipping(case: Case) -> Iterator[Problem]:
    """BEVFusion's gradients are clipped at a norm of 35, as in all three published recipes."""
    wrapper = optim_wrapper(case.cfg)
    if not wrapper or not has_transfusion_head(case.cfg):
        return
    clip = mapping(wrapper.get('clip_grad'))
    norm = number(clip.get('max_norm'))
    if norm != CLIP['max_norm']:
        yield Problem(
            f'clip_grad is {dict(clip) or None}; the published recipes clip at a norm of {CLIP["max_norm"]}',
            'set optim_wrapper.clip_grad=dict(max_norm=35, norm_type=2)',
            {'optim_wrapper.clip_grad': dict(CLIP)},
        )


@rule('custom-keys', 'error', f'{MMENGINE}/optim/optimizer/default_constructor.py')
def check_custom_keys(case: Case) -> Iterator[Problem]:
    """Every custom key names parameters, and MMEngine's constructor reads what it sets; that of this package refuses what it does not."""
    wrapper = optim_wrapper(case.cfg)
    keys = mapping(mapping(wrapper.get('paramwise_cfg')).get('custom_keys'))
    known = None
    if keys and short_name(dict(type=wrapper.get('constructor', DEFAULT_CONSTRUCTOR))) == DEFAULT_CONSTRUCTOR:
        known = argument_names(OPTIMIZERS.get(full_name(optimizer_cfg(case.cfg))))  # it hands all on to the group
    if known is not None:
        for name, settings in keys.items():
            unread = [key for key in mapping(settings) if key not in known | set(READ_BY_DEFAULT)]
            if unread:
                yield Problem(
                    f'custom_keys[{name!r}] sets {", ".join(unread)}, which neither {DEFAULT_CONSTRUCTOR} nor the optimizer '
                    'reads: nothing happens',
                    f'write {" or ".join(READ_BY_DEFAULT)}; freeze a part in the model',
                )
    if keys and not case.quick and mapping(case.cfg.get('model')):
        names = list(case.model_state)
        for name in keys:
            if not any(str(name) in f'.{each}' for each in names):
                yield Problem(
                    f'custom_keys[{name!r}] is part of no parameter\'s name: nothing happens',
                    'take it out, or correct it by the names of model.named_parameters()',
                    severity='warning',
                )


@rule('validation-and-checkpoints', 'info', 'https://github.com/mit-han-lab/bevfusion/issues/411')
def check_intervals(case: Case) -> Iterator[Problem]:
    """Every validated epoch has its checkpoint, at least two are kept, and BEVFusion is validated sample by sample."""
    if not train_cfg(case.cfg):
        return
    hook = mapping(mapping(case.cfg.get('default_hooks')).get('checkpoint'))
    if hook.get('max_keep_ckpts') == 1:
        yield Problem(
            'max_keep_ckpts is 1: a run that breaks while it writes a checkpoint has none',
            'keep at least two',
            {'default_hooks.checkpoint.max_keep_ckpts': 2},
        )
    validated, interval = count(train_cfg(case.cfg).get('val_interval', 1)), count(hook.get('interval', 1))
    by_epoch = hook.get('by_epoch', True) and case.cfg.get('val_dataloader')
    if by_epoch and validated and interval and validated < (max_epochs(case.cfg) or 0) and validated % interval:
        yield Problem(
            f'a validation every {validated} and a checkpoint every {interval} epochs: some scores have no checkpoint',
            'make the checkpoint interval a divisor of train_cfg.val_interval',
            {'default_hooks.checkpoint.interval': validated},
        )
    size = count(mapping(case.cfg.get('val_dataloader')).get('batch_size'))
    if has_transfusion_head(case.cfg) and size and size > 1:
        yield Problem(
            f'val_dataloader.batch_size is {size}; the published scores of BEVFusion were taken with 1',
            'set val_dataloader.batch_size=1',
            {'val_dataloader.batch_size': 1},
        )
