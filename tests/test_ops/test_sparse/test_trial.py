import pytest
import torch
from pretended_spconv import WRONG, pretended_spconv

from bevfusion_plugin.ops.sparse import trial
from bevfusion_plugin.ops.sparse.trial import check_against_torch

CPU = torch.device('cpu')


@pytest.fixture(autouse=True)
def few_sites(monkeypatch):
    monkeypatch.setattr(trial, 'SHAPE', (8, 8, 8))


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16])
def test_a_package_that_computes_as_we_do_passes(dtype):
    check_against_torch(pretended_spconv(), CPU, dtype)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16])
@pytest.mark.parametrize('change', WRONG)
def test_a_package_that_computes_something_else_is_refused(change, dtype):
    with pytest.raises(ArithmeticError, match='off by'):
        check_against_torch(pretended_spconv(change=WRONG[change]), CPU, dtype)


@pytest.mark.parametrize('mode', [torch.no_grad, torch.inference_mode])
def test_gradients_are_tried_where_the_first_convolution_has_none(mode):
    with mode():
        check_against_torch(pretended_spconv(), CPU, torch.float32)
        assert not torch.is_grad_enabled()


def test_the_trial_takes_no_random_number_of_the_run():
    before = torch.get_rng_state()
    check_against_torch(pretended_spconv(), CPU, torch.float32)
    assert torch.equal(torch.get_rng_state(), before)
