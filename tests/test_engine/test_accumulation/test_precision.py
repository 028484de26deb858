import pytest
import torch

from bevfusion_plugin.engine.accumulation.precision import autocast_dtype


@pytest.mark.filterwarnings('ignore:.*autocast:DeprecationWarning')  # today's torch, of the question that older ones answer
def test_older_torch_is_asked_for_autocasts_own_dtype_as_it_answers(monkeypatch):
    monkeypatch.delattr(torch, 'get_autocast_dtype', raising=False)  # new in 2.4
    assert (autocast_dtype(None, 'cpu'), autocast_dtype(None, 'cuda')) == (torch.bfloat16, torch.float16)


def test_bfloat16_on_a_gpu_that_lacks_it_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda: False)  # as older torch answers
    with pytest.raises(ValueError, match="set optim_wrapper.dtype='float16'"):
        autocast_dtype('bfloat16', 'cuda')


def test_bfloat16_on_a_gpu_that_emulates_it_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda including_emulation=True: including_emulation)
    with pytest.raises(ValueError, match='this GPU does not compute in bfloat16'):
        autocast_dtype('bfloat16', 'cuda')
