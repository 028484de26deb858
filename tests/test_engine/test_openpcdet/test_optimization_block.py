from __future__ import annotations

import copy
import json
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from goldens import golden_path
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS
from optimization_blocks import ADAM, COSINE, ONE_CYCLE, SGD
from toy_models_openpcdet import ConvBN

from bevfusion_plugin.engine import convert_optimization

BLOCKS = json.loads(golden_path('optimization_blocks.json', 'openpcdet/pcdet_yaml').read_text())['blocks']


def without(block: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in block.items() if name != key}


# The recorded blocks


@pytest.mark.parametrize('name', BLOCKS)
@pytest.mark.parametrize('in_epochs', [False, True], ids=['updates', 'epochs'])
def test_a_shipped_yaml_gives_the_recorded_optimizer_and_schedule(name, in_epochs):
    block, expected = BLOCKS[name]['optimization'], BLOCKS[name]['expected']
    iters = expected['iters_per_epoch']
    config = convert_optimization(block, None if in_epochs else iters)
    wrapper = build_optim_wrapper(ConvBN(2, 4, 3), config['optim_wrapper'])
    schedulers = [
        PARAM_SCHEDULERS.build(cfg, default_args=dict(optimizer=wrapper, epoch_length=iters)) for cfg in config['param_scheduler']
    ]
    lr, mom = [], []
    for _ in range(expected['total_steps']):
        lr.append(wrapper.get_lr()['lr'][0])
        mom.append(wrapper.get_momentum()['momentum'][0])
        wrapper.optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    np.testing.assert_allclose(np.array(lr)[expected['steps']], expected['lr'], rtol=1e-12)
    np.testing.assert_allclose(np.array(mom)[expected['steps']], expected['mom'], rtol=1e-12)
    group = wrapper.optimizer.param_groups[1]
    assert isinstance(wrapper.optimizer, torch.optim.AdamW)
    assert (group['betas'][1], group['weight_decay']) == (expected['beta2'], expected['decoupled_weight_decay'])
    assert wrapper.clip_grad_kwargs == dict(max_norm=expected['max_norm'], norm_type=2)
    assert config['optim_wrapper']['loss_scale'] == dict(init_scale=expected['grad_scaler_init_scale_if_amp'])
    assert (config['optim_wrapper']['dtype'] == 'float16') == expected['use_amp_by_config']
    assert config['train_cfg'] == dict(by_epoch=True, max_epochs=block['NUM_EPOCHS'])
    assert config['train_dataloader'] == dict(batch_size=block['BATCH_SIZE_PER_GPU'])


# Single keys


def test_the_block_stays_as_it_was():
    block = copy.deepcopy(ONE_CYCLE)
    convert_optimization(block, 10)
    assert block == ONE_CYCLE


def test_loss_scale_does_not_switch_amp_on_but_use_amp_does():
    off = convert_optimization({**ONE_CYCLE, 'LOSS_SCALE_FP16': 32})['optim_wrapper']
    on = convert_optimization({**ONE_CYCLE, 'USE_AMP': True})['optim_wrapper']
    assert (off['dtype'], off['loss_scale']) == ('float32', dict(init_scale=32.0))
    assert (on['dtype'], on['loss_scale']) == ('float16', dict(init_scale=65536.0))
    assert build_optim_wrapper(ConvBN(2, 4, 3), on).loss_scaler.get_scale() == 65536.0


def test_without_a_batch_size_the_dataloader_is_left_alone():
    assert 'train_dataloader' not in convert_optimization(without(ONE_CYCLE, 'BATCH_SIZE_PER_GPU'))


@pytest.mark.parametrize('block, kind', [(ADAM, torch.optim.Adam), (SGD, torch.optim.SGD)])
def test_adam_and_sgd_keep_coupled_decay_and_one_group(block, kind):
    wrapper = build_optim_wrapper(ConvBN(2, 4, 3), convert_optimization(block)['optim_wrapper'])
    assert type(wrapper.optimizer) is kind
    assert [group['weight_decay'] for group in wrapper.optimizer.param_groups] == [0.01]
    assert wrapper.get_momentum()['momentum'] == [0.9 if kind is torch.optim.Adam else 0.8]


def test_warmup_of_sgd_is_mended_and_says_so(log):
    config = convert_optimization({**SGD, 'LR_WARMUP': True, 'WARMUP_EPOCH': 2})
    assert [cfg['type'].split('.')[1] for cfg in config['param_scheduler']] == ['CosineWarmupLR', 'StepDecayLR']
    assert config['param_scheduler'][0]['end'] == config['param_scheduler'][1]['begin'] == 2
    assert 'LR_WARMUP with sgd crashes in OpenPCDet' in log.text


def test_a_warmup_as_long_as_the_training_has_no_decay_after_it():
    config = convert_optimization({**ADAM, 'LR_WARMUP': True, 'WARMUP_EPOCH': 8})
    assert [cfg['type'].split('.')[1] for cfg in config['param_scheduler']] == ['CosineWarmupLR']


@pytest.mark.parametrize(
    'block, ignored, used',
    [
        (ONE_CYCLE, ('MOMENTUM', 'DECAY_STEP_LIST', 'LR_DECAY', 'LR_CLIP', 'LR_WARMUP', 'WARMUP_EPOCH'), ('DIV_FACTOR', 'MOMS')),
        (COSINE, ('MOMENTUM', 'DIV_FACTOR', 'LR_WARMUP'), ('WARMUP_ITER', 'PCT_START')),
        (ADAM, ('MOMENTUM', 'MOMS', 'PCT_START', 'DIV_FACTOR', 'WARMUP_EPOCH'), ('LR_DECAY', 'LR_CLIP')),
        (SGD, ('MOMS', 'PCT_START', 'DIV_FACTOR'), ('MOMENTUM,', 'LR_DECAY')),
    ],
)
def test_keys_that_openpcdet_ignores_are_reported(block, ignored, used, log):
    convert_optimization(block)
    assert all(key in log.text for key in ignored)
    assert not any(key in log.text for key in used)


def test_ignored_keys_may_hold_anything():
    usual = convert_optimization(ONE_CYCLE)
    assert convert_optimization({**ONE_CYCLE, 'MOMENTUM': None, 'LR_CLIP': 'none'}) == usual
    assert convert_optimization(without(without(ONE_CYCLE, 'DECAY_STEP_LIST'), 'LR_WARMUP')) == usual


@pytest.mark.parametrize('block', [ONE_CYCLE, COSINE, ADAM, SGD], ids=lambda block: block['OPTIMIZER'])
def test_every_needed_key_is_asked_for_by_name(block):
    log_free = {'BATCH_SIZE_PER_GPU', 'LOSS_SCALE_FP16'}
    needed = []
    for key in block:
        try:
            convert_optimization(without(block, key))
        except ValueError as error:
            assert f'required key {key} is missing' in str(error)
            needed.append(key)
    own = dict(
        adam_onecycle={'MOMS', 'PCT_START', 'DIV_FACTOR'},
        adam_cosineanneal={'MOMS', 'PCT_START', 'WARMUP_ITER'},
        adam={'DECAY_STEP_LIST', 'LR_DECAY', 'LR_CLIP', 'LR_WARMUP'},
    )
    own['sgd'] = own['adam'] | {'MOMENTUM'}
    common = {'OPTIMIZER', 'NUM_EPOCHS', 'LR', 'WEIGHT_DECAY', 'GRAD_NORM_CLIP'}
    assert set(needed) == (common | own[block['OPTIMIZER']]) - log_free


@pytest.mark.parametrize(
    'block, key, value',
    [
        (ONE_CYCLE, 'PCT_START', 1.5),
        (ONE_CYCLE, 'PCT_START', -0.1),
        (ONE_CYCLE, 'MOMS', []),
        (ONE_CYCLE, 'MOMS', [0.95]),
        (ONE_CYCLE, 'MOMS', [1.0, 0.85]),
        (ONE_CYCLE, 'MOMS', None),
        (ONE_CYCLE, 'LR', 0),
        (ONE_CYCLE, 'LR', -0.003),
        (ONE_CYCLE, 'LR', float('nan')),
        (ONE_CYCLE, 'LR', float('inf')),
        (ONE_CYCLE, 'LR', '3e-3'),
        (ONE_CYCLE, 'LR', True),
        (ONE_CYCLE, 'DIV_FACTOR', 0),
        (ONE_CYCLE, 'NUM_EPOCHS', 0),
        (ONE_CYCLE, 'NUM_EPOCHS', 2.5),
        (ONE_CYCLE, 'BATCH_SIZE_PER_GPU', 0),
        (ONE_CYCLE, 'WEIGHT_DECAY', -1),
        (ONE_CYCLE, 'GRAD_NORM_CLIP', 0),
        (ONE_CYCLE, 'BETAS', [0.9, 1.0]),
        (ONE_CYCLE, 'OPTIMIZER', 'lamb'),
        (ONE_CYCLE, 'OPTIMIZER', ['adam']),
        (ONE_CYCLE, 'USE_AMP', 'yes'),
        (ONE_CYCLE, 'LOSS_SCALE_FP16', 0),
        (COSINE, 'WARMUP_ITER', -1),
        (ADAM, 'DECAY_STEP_LIST', 35),
        (ADAM, 'DECAY_STEP_LIST', [-1]),
        (ADAM, 'LR_DECAY', 0),
        (ADAM, 'LR_CLIP', -1e-7),
        (ADAM, 'LR_WARMUP', 1),
        (SGD, 'MOMENTUM', 1.0),
        ({**ADAM, 'LR_WARMUP': True}, 'WARMUP_EPOCH', 0),
    ],
)
def test_a_value_out_of_range_is_refused_with_key_and_value(block, key, value):
    with pytest.raises(ValueError) as error:
        convert_optimization({**block, key: value})
    assert key in str(error.value) and repr(value) in str(error.value)


def test_an_unknown_key_is_refused():
    with pytest.raises(ValueError, match='unknown key LEARNING_RATE: 0.1'):
        convert_optimization({**ONE_CYCLE, 'LEARNING_RATE': 0.1})


def test_updates_an_epoch_must_be_a_count():
    with pytest.raises(ValueError, match='iters_per_epoch must be an int >= 1, got 0'):
        convert_optimization(ONE_CYCLE, 0)


def test_what_openpcdet_never_trains_is_trained_and_said(log):
    config = convert_optimization(ONE_CYCLE)['optim_wrapper']
    assert config['paramwise_cfg'] == dict(decay_unused=True, leaf_modules_only=False)
    assert 'leaf_modules_only=False trains them' in log.text


def test_a_number_that_yaml_reads_as_text_gets_a_hint():
    with pytest.raises(ValueError, match="LR_CLIP must be a number >= 0, got '1e-7'; YAML reads .*, write 1e-07"):
        convert_optimization({**ADAM, 'LR_CLIP': yaml.safe_load('1e-7')})
