"""An OpenPCDet OPTIMIZATION block as the keys of an MMEngine config.

Source:
    OpenPCDet tools/train_utils/optimization/__init__.py and tools/train_utils/train_utils.py say which key each optimizer
    reads; tools/cfgs holds the blocks.
"""

from __future__ import annotations

import math
from typing import Any
from collections.abc import Callable

from mmengine.logging import print_log

from bevfusion_plugin.plan.checked_settings import positive_int

WRAPPER = 'bevfusion_plugin.AccumulativeAmpOptimWrapper'
CONSTRUCTOR = 'bevfusion_plugin.OpenPCDetOptimWrapperConstructor'
CYCLE_KEYS = ('MOMS', 'PCT_START')
DECAY_KEYS = ('DECAY_STEP_LIST', 'LR_DECAY', 'LR_CLIP', 'LR_WARMUP')
REQUIRED = ('OPTIMIZER', 'NUM_EPOCHS', 'LR', 'WEIGHT_DECAY', 'GRAD_NORM_CLIP')
OPTIONAL = ('BATCH_SIZE_PER_GPU', 'LOSS_SCALE_FP16', 'USE_AMP')
REQUIRED_BY = {
    'adam_onecycle': CYCLE_KEYS + ('DIV_FACTOR',),
    'adam_cosineanneal': CYCLE_KEYS + ('WARMUP_ITER',),
    'adam': DECAY_KEYS,
    'sgd': DECAY_KEYS + ('MOMENTUM',),
}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: Any) -> bool:
    return _is_number(value) and isinstance(value, int)


def _is_momentum_pair(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(_is_number(v) and 0 <= v < 1 for v in value)


POSITIVE = (lambda value: _is_number(value) and value > 0, 'a number > 0')
NOT_NEGATIVE = (lambda value: _is_number(value) and value >= 0, 'a number >= 0')
COUNT = (lambda value: _is_whole(value) and value >= 1, 'a whole number >= 1')
FLAG = (lambda value: isinstance(value, bool), 'True or False')
PAIR = (_is_momentum_pair, 'two numbers in [0, 1)')
RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    'OPTIMIZER': (lambda value: value in tuple(REQUIRED_BY), f'one of {", ".join(REQUIRED_BY)}'),
    'BATCH_SIZE_PER_GPU': COUNT,
    'NUM_EPOCHS': COUNT,
    'LR': POSITIVE,
    'WEIGHT_DECAY': NOT_NEGATIVE,
    'MOMENTUM': (lambda value: _is_number(value) and 0 <= value < 1, 'a number in [0, 1)'),
    'BETAS': PAIR,
    'MOMS': PAIR,
    'PCT_START': (lambda value: _is_number(value) and 0 <= value <= 1, 'a number in [0, 1]'),
    'DIV_FACTOR': POSITIVE,
    'WARMUP_ITER': (lambda value: _is_whole(value) and value >= 0, 'a whole number >= 0'),
    'DECAY_STEP_LIST': (
        lambda value: isinstance(value, (list, tuple)) and all(_is_whole(v) and v >= 0 for v in value),
        'a list of epochs >= 0',
    ),
    'LR_DECAY': POSITIVE,
    'LR_CLIP': NOT_NEGATIVE,
    'LR_WARMUP': FLAG,
    'WARMUP_EPOCH': COUNT,
    'GRAD_NORM_CLIP': POSITIVE,
    'LOSS_SCALE_FP16': POSITIVE,
    'USE_AMP': FLAG,
}


def convert_optimization(optimization: dict[str, Any], iters_per_epoch: int | None = None) -> dict[str, Any]:
    """MM config keys that train as OpenPCDet does with this OPTIMIZATION block.

    Args:
        optimization: The block, as YAML gives it. It is not changed.
        iters_per_epoch: Updates an epoch. None: the schedule is written in epochs and MMEngine's Runner converts it; a
            number gives it in updates, for a loop without Runner.

    Returns:
        ``optim_wrapper``, ``param_scheduler`` (a list), ``train_cfg``, and ``train_dataloader.batch_size`` if the block has
        BATCH_SIZE_PER_GPU. Keys that OpenPCDet ignores for this optimizer are named in the log.

    Raises:
        ValueError: If a key is unknown or missing, or a value out of range; the message names key and value.

    Source:
        OpenPCDet tools/train_utils/optimization/__init__.py. What differs: parameters beside child modules are trained
        (``leaf_modules_only=True`` leaves them out as OpenPCDet does); past the end the schedule stays where it is; adam and
        sgd with LR_WARMUP, which stop there with an error, warm up as they were meant to.
    """
    if iters_per_epoch is not None:
        positive_int('iters_per_epoch', iters_per_epoch, 'give the updates an epoch, or None')
    values = {name: value for name, (value, _) in read_settings(optimization).items()}
    for note in conversion_notes(optimization):
        print_log(note, logger='current')
    return mm_config(optimization['OPTIMIZER'], values, iters_per_epoch)


def conversion_notes(optimization: dict[str, Any]) -> list[str]:
    """Sentences on where the conversion differs from the block, and from OpenPCDet."""
    optimizer = optimization['OPTIMIZER']
    ignored = [key for key in optimization if key not in _used_keys(optimization)]
    notes = []
    if ignored:
        notes.append(f'OpenPCDet ignores these keys for {optimizer}, so they are left out: {", ".join(ignored)}')
    if 'WARMUP_EPOCH' in _used_keys(optimization):
        notes.append(f'LR_WARMUP with {optimizer} crashes in OpenPCDet; here it warms up over WARMUP_EPOCH epochs, then decays')
    if 'MOMS' in _used_keys(optimization):
        notes.append(
            'OpenPCDet never trains parameters that sit beside child modules, such as the in_proj_weight of an '
            'attention; leaf_modules_only=False trains them, True leaves them out'
        )
    return notes


def _used_keys(optimization: dict[str, Any]) -> dict[str, bool]:
    """Keys that OpenPCDet reads for this optimizer, and whether it needs them."""
    optimizer = optimization['OPTIMIZER']
    required = REQUIRED + REQUIRED_BY[optimizer]
    if optimizer in ('adam', 'sgd'):
        if optimization.get('LR_WARMUP'):
            required += ('WARMUP_EPOCH', 'DIV_FACTOR')
        return {**dict.fromkeys(OPTIONAL, False), **dict.fromkeys(required, True)}
    return {**dict.fromkeys(OPTIONAL + ('BETAS',), False), **dict.fromkeys(required, True)}


def check_optimization(optimization: dict[str, Any]) -> None:
    """Refuse a block with an unknown key, without a needed one, or with a value out of range.

    Raises:
        ValueError: Naming the key and the value.
    """
    if not isinstance(optimization, dict):
        raise ValueError(f'OPTIMIZATION must be a mapping, got {optimization!r}')
    for key, value in optimization.items():
        if key not in RANGES:
            raise ValueError(f'unknown key {key}: {value!r} in OPTIMIZATION; known are {", ".join(RANGES)}')
    _check_key(optimization, 'OPTIMIZER', True)
    for key, required in _used_keys(optimization).items():
        _check_key(optimization, key, required)


def _check_key(optimization: dict[str, Any], key: str, required: bool) -> None:
    is_valid, description = RANGES[key]
    if key not in optimization:
        if required:
            raise ValueError(f'required key {key} is missing from OPTIMIZATION; it is {description}')
        return
    value = optimization[key]
    if not is_valid(value):
        raise ValueError(f'OPTIMIZATION.{key} must be {description}, got {value!r}{_number_hint(value)}')


def _number_hint(value: Any) -> str:
    try:
        return f'; YAML reads a number without a dot as text, write {float(value)!r}' if isinstance(value, str) else ''
    except ValueError:
        return ''


def read_settings(optimization: dict[str, Any]) -> dict[str, tuple[Any, str]]:
    """MM names of the values in a block: ``{'lr': (0.003, 'LR'), ...}``, each with the OpenPCDet key it came from.

    Raises:
        ValueError: As :func:`check_optimization`.
    """
    check_optimization(optimization)
    block = optimization
    init_scale = float(block.get('LOSS_SCALE_FP16', 65536))
    settings = {
        'max_epochs': (block['NUM_EPOCHS'], 'NUM_EPOCHS'),
        'lr': (block['LR'], 'LR'),
        'weight_decay': (block['WEIGHT_DECAY'], 'WEIGHT_DECAY'),
        'max_norm': (block['GRAD_NORM_CLIP'], 'GRAD_NORM_CLIP'),
        'dtype': ('float16' if block.get('USE_AMP') else 'float32', 'USE_AMP; float16 switches AMP on'),
        'init_scale': (init_scale, 'LOSS_SCALE_FP16; used with AMP only'),
    }
    if 'BATCH_SIZE_PER_GPU' in block:
        settings['batch_size'] = (block['BATCH_SIZE_PER_GPU'], 'BATCH_SIZE_PER_GPU')
    names = {
        'MOMENTUM': 'momentum',
        'MOMS': 'moms',
        'PCT_START': 'pct_start',
        'DIV_FACTOR': 'div_factor',
        'WARMUP_ITER': 'warmup_iters',
        'DECAY_STEP_LIST': 'milestones',
        'LR_DECAY': 'gamma',
        'LR_CLIP': 'eta_min',
        'WARMUP_EPOCH': 'warmup_epochs',
    }
    for key, name in names.items():
        if key in _used_keys(block):
            settings[name] = (block[key], key)
    if 'MOMS' in _used_keys(block):
        betas = (float(block['MOMS'][0]), float(block.get('BETAS', (0.9, 0.99))[1]))
        settings['betas'] = (betas, 'MOMS[0] and BETAS[1], which is 0.99 if absent')
    return settings


def mm_config(optimizer: str, values: dict[str, Any], iters_per_epoch: int | None = None) -> dict[str, Any]:
    """MM config keys for an OpenPCDet optimizer and the values that :func:`read_settings` found for it."""
    config = dict(
        optim_wrapper=_optim_wrapper(optimizer, values),
        param_scheduler=_param_scheduler(optimizer, values, iters_per_epoch),
        train_cfg=dict(by_epoch=True, max_epochs=values['max_epochs']),
    )
    if 'batch_size' in values:
        config['train_dataloader'] = dict(batch_size=values['batch_size'])
    return config


def _optim_wrapper(optimizer: str, values: dict[str, Any]) -> dict[str, Any]:
    common = dict(lr=values['lr'], weight_decay=values['weight_decay'])
    if optimizer == 'adam':
        built = dict(constructor='DefaultOptimWrapperConstructor', optimizer=dict(type='Adam', **common))
    elif optimizer == 'sgd':
        built = dict(constructor='DefaultOptimWrapperConstructor', optimizer=dict(type='SGD', momentum=values['momentum'], **common))
    else:
        built = dict(
            constructor=CONSTRUCTOR,
            optimizer=dict(type='AdamW', betas=values['betas'], **common),
            paramwise_cfg=dict(decay_unused=True, leaf_modules_only=False),
        )
    return dict(
        type=WRAPPER,
        **built,
        clip_grad=dict(max_norm=values['max_norm'], norm_type=2),
        dtype=values['dtype'],
        loss_scale=dict(init_scale=values['init_scale']),
    )


def _param_scheduler(optimizer: str, values: dict[str, Any], iters_per_epoch: int | None) -> list[dict[str, Any]]:
    def epochs(number: Any) -> Any:
        return number if iters_per_epoch is None else number * iters_per_epoch

    unit = dict(by_epoch=True, convert_to_iter_based=True) if iters_per_epoch is None else dict(by_epoch=False)
    end = epochs(values['max_epochs'])
    if optimizer in ('adam_onecycle', 'adam_cosineanneal'):
        turn = dict(moms=values['moms'], pct_start=values['pct_start'], end=end, **unit)
        if optimizer == 'adam_onecycle':
            return [dict(type='bevfusion_plugin.OneCycleParamScheduler', div_factor=values['div_factor'], **turn)]
        stairs = {} if iters_per_epoch is None else dict(num_epochs=values['max_epochs'])
        return [dict(type='bevfusion_plugin.CosineAnnealingParamScheduler', warmup_iters=values['warmup_iters'], **stairs, **turn)]
    milestones = values['milestones'] if iters_per_epoch is None else [epochs(epoch) for epoch in values['milestones']]
    decay = dict(
        type='bevfusion_plugin.StepDecayLR', milestones=milestones, gamma=values['gamma'], eta_min=values['eta_min'], end=end, **unit
    )
    if 'warmup_epochs' not in values:
        return [decay]
    warmup_end = epochs(values['warmup_epochs'])
    warmup = dict(type='bevfusion_plugin.CosineWarmupLR', div_factor=values['div_factor'], end=warmup_end, **unit)
    return [warmup, dict(decay, begin=warmup_end)] if warmup_end < end else [warmup]
