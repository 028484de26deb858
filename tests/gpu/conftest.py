"""The same comparisons on two devices: on the CPU they show that they are written right, on a GPU (`make gpu`) that it computes right."""

import pytest
import torch

ON_GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA GPU')]


@pytest.fixture(params=['cpu', pytest.param('cuda', marks=ON_GPU)])
def device(request):
    """The device, with convolutions in full float32 (TF32 has 11 bits; products have none of it unless somebody asks)."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield request.param
    torch.backends.cudnn.allow_tf32 = before
