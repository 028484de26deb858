import pytest
import torch
from goldens import load_golden
from module_goldens import check_module

from bevfusion_plugin.models.camera.lss_fpn import GeneralizedLSSFPN


@pytest.mark.parametrize('case', ['lssfpn_3level', 'lssfpn_default_upsample'])
@pytest.mark.parametrize('mode', ['eval', 'train'])
def test_neck_equals_the_reference(case, mode):
    golden = load_golden(case)
    cfg = {k: v for k, v in golden.meta['cfg'].items() if k != 'type'}
    check_module(GeneralizedLSSFPN(**cfg), golden, mode, lambda m, x: m(x))


def test_start_level_skips_the_finest_inputs():
    neck = GeneralizedLSSFPN([4, 6, 8], 5, num_outs=2, start_level=1)
    maps = neck([torch.rand(1, 4, 8, 8), torch.rand(1, 6, 4, 4), torch.rand(1, 8, 2, 2)])
    assert [tuple(m.shape) for m in maps] == [(1, 5, 4, 4)]


def test_inputs_are_not_modified():
    neck = GeneralizedLSSFPN([4, 6], 5, num_outs=2)
    inputs = [torch.rand(1, 4, 8, 8), torch.rand(1, 6, 4, 4)]
    before = [x.clone() for x in inputs]
    neck(inputs)
    assert all(torch.equal(a, b) for a, b in zip(inputs, before))


@pytest.mark.parametrize(
    'kwargs, message', [(dict(start_level=1), 'start_level must lie in'), (dict(num_outs=3), 'num_outs=3 asks for more maps')]
)
def test_settings_that_fit_no_input_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        GeneralizedLSSFPN(**{**dict(in_channels=[4, 6], out_channels=5, num_outs=2), **kwargs})


def test_wrong_number_of_inputs_is_refused():
    with pytest.raises(ValueError, match='expected 2 input maps, got 1'):
        GeneralizedLSSFPN([4, 6], 5, num_outs=2)([torch.rand(1, 4, 8, 8)])
