from types import SimpleNamespace

import pytest
from torch import nn

from bevfusion_plugin.engine.hooks.checkpoint_match_hook import CheckpointMatchHook


@pytest.fixture
def runner():
    return SimpleNamespace(model=nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3)))


def test_a_checkpoint_of_this_model_or_of_a_part_of_it_passes(runner):
    hook = CheckpointMatchHook()
    state = runner.model.state_dict()
    assert hook.after_load_checkpoint(runner, dict(state_dict=state)) is None
    wrapped = {f'module.{key}': value for key, value in state.items()}
    assert hook.after_load_checkpoint(runner, dict(state_dict=wrapped)) is None
    part = {key: value for key, value in state.items() if key.startswith('0.')}
    assert hook.after_load_checkpoint(runner, dict(state_dict=part)) is None


def test_a_checkpoint_of_another_architecture_is_refused_by_name(runner):
    other = nn.Sequential(nn.Conv2d(2, 5, 1), nn.BatchNorm2d(5)).state_dict()
    with pytest.raises(ValueError, match=r'only 14% of the 7 tensors(.|\n)*0.weight: \(5, 2, 1, 1\) in the checkpoint'):
        CheckpointMatchHook().after_load_checkpoint(runner, dict(state_dict=other))


def test_share_must_be_a_share():
    with pytest.raises(ValueError, match=r'min_share must be in \[0, 1\], got 95'):
        CheckpointMatchHook(95)
