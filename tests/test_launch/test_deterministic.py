"""``tools/train.py --deterministic``: the same command twice ends with the same weights."""

import os

import pytest
import torch
from launched_tools import TRAIN, Launched
from mmengine.config import Config

from bevfusion_plugin.launch.flags import set_deterministic

# A convolution, BatchNorm, dropout and shuffled data loaded by two workers; no hook of ours seeds anything.
CONFIG = """
default_scope = 'mmengine'
model = dict(type='drawing_model.DrawingModel')
train_dataloader = dict(batch_size=4, num_workers=2, collate_fn=dict(type='default_collate'), dataset=dict(type='drawing_model.NoisyImages'),
                        sampler=dict(type='DefaultSampler', shuffle=True))
train_cfg = dict(by_epoch=True, max_epochs=2)
optim_wrapper = dict(type='bevfusion_plugin.AccumulativeAmpOptimWrapper', dtype='float32', optimizer=dict(type='AdamW', lr=0.01),
                     accumulative_counts=2)
custom_hooks = [dict(type='bevfusion_plugin.WindowHook')]
"""


def weights_of(tmp_path, name, *flags):
    """State of model and optimizer after a run of the tool in a process of its own."""
    config = tmp_path / 'drawing.py'
    config.write_text(CONFIG)
    run = Launched([*TRAIN, config, '--work-dir', tmp_path / name, *flags])
    assert run.end() == 0, run.output[-3000:]
    checkpoint = torch.load(tmp_path / name / 'epoch_2.pth', weights_only=False)
    moments = [value for state in checkpoint['optimizer']['state'].values() for value in state.values()]
    return [*checkpoint['state_dict'].values(), *moments]


def equal(first, second):
    return len(first) == len(second) and all(torch.equal(a, b) for a, b in zip(first, second))


@pytest.mark.skipif(torch.cuda.is_available(), reason='the runs are to be on the CPU')
def test_two_runs_are_equal_bit_for_bit_and_another_seed_is_another_run(tmp_path):
    first, second, other = (
        weights_of(tmp_path, name, '--deterministic', *flags) for name, flags in dict(first=[], second=[], other=['--seed', '1']).items()
    )
    assert equal(first, second) and not equal(first, other)


def test_the_flag_sets_everything_and_keeps_a_seed(monkeypatch):
    monkeypatch.setattr(os, 'environ', {})
    cfg = Config(dict(env_cfg=dict(cudnn_benchmark=True)))
    set_deterministic(cfg)
    assert cfg.randomness == dict(seed=0, deterministic=True) and cfg.env_cfg.cudnn_benchmark is False
    assert os.environ == dict(CUBLAS_WORKSPACE_CONFIG=':4096:8')
    cfg = Config(dict(randomness=dict(seed=7, diff_rank_seed=True)))
    set_deterministic(cfg)
    assert cfg.randomness == dict(seed=7, diff_rank_seed=True, deterministic=True)
