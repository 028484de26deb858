import torch
from pretended_cuda import DEVICE, CudaTensor, PretendedCuda

from bevfusion_plugin.ops.packed_copy import constant, copy_together


def test_tensors_copied_together_wait_once_and_keep_shape_and_dtype():
    parts = torch.rand(2, 3), torch.arange(4), torch.zeros(0, 5)
    with PretendedCuda().pretend() as cuda:
        there = copy_together(parts, DEVICE)
        assert all(isinstance(part, CudaTensor) for part in there) and not cuda.waits and not cuda.copies
        back = copy_together(there, 'cpu')
        assert cuda.waits.total() == 1
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(back, parts, strict=True))


def test_tensors_that_are_there_come_back_as_they_are():
    part = torch.rand(2)
    assert copy_together([part], 'cpu')[0] is part


def test_a_constant_has_the_dtype_and_device_of_the_other_and_nobody_waits():
    assert torch.equal(constant([1, 2.5], torch.zeros(3, dtype=torch.float64)), torch.tensor([1, 2.5], dtype=torch.float64))
    with PretendedCuda().pretend() as cuda:
        like = torch.zeros(1).to(DEVICE, non_blocking=True)
        assert isinstance(constant([1.0, 2.0], like), CudaTensor) and not cuda.waits and not cuda.copies
