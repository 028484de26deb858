import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from bevfusion_plugin.doctor.memory.saved_tensors import (
    SavedTensorCounter,
    WithoutProducts,
    checkpointed_bytes,
    checkpointed_modules,
    cuda_autocast,
    gradient_bytes,
    optimizer_state_bytes,
    parameter_bytes,
)


class Block(nn.Module):
    """Two linear layers with a GELU, which mmdet's way of checkpointing may run again."""

    def __init__(self, width, with_cp=False):
        super().__init__()
        self.with_cp = with_cp
        self.layers = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x):
        return checkpoint(self.layers, x, use_reentrant=False) if self.with_cp and x.requires_grad else self.layers(x)


class ConvNet(nn.Module):
    """Images to logits: convolutions, BatchNorm, attention over the rows."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.neck = nn.Conv2d(8, 8, 3, stride=2, padding=1, bias=False)
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.1, batch_first=True)

    def forward(self, x):
        x = self.neck(self.stem(x)).mean(2).transpose(1, 2)
        return self.attention(x, x, x)[0]


def saved_by(model, x, dtype=torch.float32, parts=()):
    with SavedTensorCounter(model, parts) as counter, cuda_autocast(dtype):
        model(x)
    return counter.result()


def test_a_linear_layer_saves_its_input_alone():
    x = torch.randn(5, 7)
    assert saved_by(nn.Linear(7, 3), x).total == 5 * 7 * 4


def test_a_storage_that_two_layers_save_counts_once():
    layers = nn.ModuleList([nn.Linear(7, 3), nn.Linear(7, 2)])
    x = torch.randn(5, 7, requires_grad=True)
    with SavedTensorCounter(layers, ()) as counter:
        layers[0](x), layers[1](x)
    assert counter.result().total == 5 * 7 * 4


def test_bytes_belong_to_the_innermost_part():
    model = nn.Sequential(Block(4), nn.Linear(4, 2))
    saved = saved_by(model, torch.randn(3, 4), parts=('0', '0.layers'))
    # the block: its input (3, 4), the GELU's input and output (3, 16); the last layer: its input (3, 4)
    assert saved.parts == {'0.layers': 4 * (12 + 48 + 48), '': 4 * 12}
    assert saved.largest == {'0.layers': 4 * 48, '': 4 * 12}


def test_the_counter_takes_its_hooks_away_after_an_error():
    model = nn.Sequential(Block(4))
    with pytest.raises(RuntimeError):
        with SavedTensorCounter(model, ('0',)) as counter:
            model(torch.randn(3, 5))
    assert not model[0]._forward_hooks and not model[0]._forward_pre_hooks
    before = counter.result()
    model(torch.randn(3, 4))
    assert counter.result() == before


def test_it_counts_on_the_meta_device_as_on_the_cpu():
    with torch.device('meta'):
        model, x = ConvNet(), torch.empty(2, 3, 16, 24)
    with SavedTensorCounter(model, ()) as counter:
        model(x)
    with SavedTensorCounter(real := ConvNet(), ()) as real_counter:
        real(torch.randn(2, 3, 16, 24))
    # scalars that attention makes beside the tensors may differ by a few bytes
    assert counter.result().total == pytest.approx(real_counter.result().total, rel=0.01)


def test_copies_of_parameters_under_autocast_do_not_grow_with_the_batch():
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    small, large = (saved_by(model, torch.randn(rows, 64), torch.float16) for rows in (2, 20))
    # bfloat16 of the second weight; no gradient flows back through the first, and none needs a bias
    assert small.fixed == large.fixed == 2 * 64 * 64
    assert small.scaled({'': 10}) == large


def test_the_prediction_of_other_sizes_is_their_measurement():
    model = ConvNet()
    small = saved_by(model, torch.randn(1, 3, 16, 24), parts=('stem', 'neck'))
    for images, height in ((3, 16), (2, 32)):
        factor = images * height / 16
        predicted = small.scaled({'stem': factor, 'neck': factor, '': images})
        measured = saved_by(model, torch.randn(images, 3, height, 24), parts=('stem', 'neck'))
        assert predicted.total == pytest.approx(measured.total, rel=0.02)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16])
def test_what_is_saved_does_not_depend_on_computing_the_products(dtype):
    model, x = ConvNet(), torch.randn(2, 3, 16, 24)
    computed = saved_by(model, x, dtype)
    with WithoutProducts():
        assert saved_by(model, x, dtype) == computed


def test_products_are_zeros_of_the_right_shape_and_layout():
    conv, x = nn.Conv2d(3, 8, 3, stride=2), torch.randn(2, 3, 9, 9).to(memory_format=torch.channels_last)
    with WithoutProducts():
        y = conv(x)
    expected = conv(x)
    assert y.shape == expected.shape and y.dtype == expected.dtype and not y.any()
    assert conv(x).any()


def test_sparse_products_are_computed():
    with WithoutProducts():
        assert torch.equal(torch.eye(3).to_sparse() @ torch.ones(3, 2), torch.ones(3, 2))


def test_norms_and_softmax_run_in_float32_as_on_cuda_and_nowhere_else():
    x, norm = torch.randn(3, 8).bfloat16(), nn.LayerNorm(8)
    with cuda_autocast(torch.float16):
        assert norm(x).dtype is torch.float32 and x.softmax(-1).dtype is torch.float32
        assert F.group_norm(x, 2).dtype is torch.float32 and F.linear(x, torch.randn(4, 8)).dtype is torch.bfloat16
    with torch.autocast('cpu', torch.bfloat16):
        assert norm(x).dtype is torch.bfloat16 and x.softmax(-1).dtype is torch.bfloat16


def test_dropout_keeps_a_mask_of_one_byte_an_element_as_on_cuda():
    x = torch.randn(10, 10, requires_grad=True)
    with cuda_autocast(torch.float32), SavedTensorCounter(nn.Identity(), ()) as counter:
        F.dropout(x, 0.5)
        assert torch.equal(F.dropout(x, 0.5, training=False), x) and torch.equal(F.dropout(x, 0.0), x)
    assert counter.result().total == 100


def test_parameters_buffers_and_gradients_are_exact():
    model = nn.Sequential(nn.Linear(7, 3), nn.BatchNorm1d(3))
    model[0].bias.requires_grad_(False)
    # weight 21, bias 3, BatchNorm 3 + 3, running statistics 3 + 3 of 4 bytes and a counter of 8
    assert parameter_bytes(model) == 4 * (21 + 3 + 6 + 6) + 8
    assert gradient_bytes(model) == 4 * (21 + 6)


def test_a_shared_parameter_counts_once():
    first, second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
    second.weight = first.weight
    assert parameter_bytes(nn.Sequential(first, second)) == 4 * 16


@pytest.mark.parametrize(
    'optimizer',
    [
        dict(type='AdamW', lr=1e-3, weight_decay=0.01),
        dict(type='Adam', lr=1e-3, amsgrad=True),
        dict(type='SGD', lr=0.1),
        dict(type='SGD', lr=0.1, momentum=0.9),
    ],
    ids=lambda cfg: '-'.join(map(str, cfg.values())),
)
def test_the_optimizer_state_is_that_of_a_real_update(optimizer):
    model = ConvNet()
    predicted = optimizer_state_bytes(model, optimizer)
    assert all(p.grad is None for p in model.parameters())
    settings = {key: value for key, value in optimizer.items() if key != 'type'}
    real = getattr(torch.optim, optimizer['type'])(model.parameters(), **settings)
    model(torch.randn(2, 3, 16, 24)).sum().backward()
    real.step()
    measured = sum(value.nbytes for state in real.state.values() for value in state.values() if torch.is_tensor(value))
    assert predicted == measured


def test_adamw_holds_two_numbers_a_parameter():
    model = nn.Linear(1000, 1000, bias=False)
    assert optimizer_state_bytes(model, dict(type='AdamW', lr=1e-3, fused=True)) == 2 * 4 * 1000**2 + 4  # and the step


def test_checkpointing_leaves_the_inputs_and_one_block_to_recompute():
    plain, checkpointed = (nn.Sequential(nn.Linear(4, 4), Block(4, cp), Block(4, cp)) for cp in (False, True))
    x = torch.randn(3, 4)
    assert saved_by(plain, x).total == 4 * (12 + 2 * (12 + 48 + 48))
    assert saved_by(checkpointed, x).total == 4 * (12 + 2 * 12)
    again = checkpointed_bytes(checkpointed, ('1',), lambda: checkpointed(x))
    assert {name: saved.parts for name, saved in again.items()} == {'1': {'1': 4 * (12 + 48 + 48)}, '2': {'': 4 * (12 + 48 + 48)}}
    assert all(module.with_cp for module in checkpointed_modules(checkpointed).values()), 'it must be switched on again'
    assert checkpointed_bytes(plain, (), lambda: plain(x)) == {}
