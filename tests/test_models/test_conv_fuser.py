import pytest
import torch
from goldens import load_golden
from module_goldens import check_module

from bevfusion_plugin.models.conv_fuser import ConvFuser


@pytest.mark.parametrize('mode', ['eval', 'train'])
def test_fuser_equals_the_reference(mode):
    golden = load_golden('conv_fuser')
    check_module(ConvFuser(golden.meta['cfg']['in_channels'], golden.meta['cfg']['out_channels']), golden, mode, lambda m, x: m(x))


def test_maps_of_another_channel_count_are_refused():
    with pytest.raises(ValueError, match=r'expected maps with channels \[2, 3\]'):
        ConvFuser([2, 3], 4)([torch.rand(1, 3, 4, 4), torch.rand(1, 2, 4, 4)])


def test_maps_on_different_grids_are_refused():
    with pytest.raises(ValueError, match='different grids'):
        ConvFuser([2, 3], 4)([torch.rand(1, 2, 4, 4), torch.rand(1, 3, 8, 8)])
