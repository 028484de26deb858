import pytest
import torch
from goldens import assert_close, load_golden
from mmcv.cnn.bricks.transformer import MultiheadAttention
from module_goldens import FORWARD, GRADIENT, check_parameters
from torch import nn

from bevfusion_plugin.models.head.transformer_decoder_layer import PositionEncodingLearned, ResidualAttention
from bevfusion_plugin.registry import MODELS, build_nested

INPUTS = ('query', 'key', 'query_pos', 'key_pos')


def small_layer(**overrides):
    return build_nested(MODELS, dict(load_golden('decoder_layer').meta['cfg'], **overrides))


@pytest.mark.parametrize('mode', ['eval', 'train'])
def test_layer_equals_the_reference(mode):
    golden = load_golden('decoder_layer')
    layer = small_layer()
    layer.load_state_dict(golden.group('sd/'), strict=True)
    layer.train(mode == 'train')
    inputs = {name: golden[f'in/{name}'].requires_grad_() for name in INPUTS}
    out = layer(**inputs)
    assert_close(out, golden[f'{mode}/out/query'], FORWARD, 'query')
    (out * golden['cot/query']).sum().backward()
    for name, value in inputs.items():
        assert_close(value.grad, golden[f'{mode}/gin/{name}'], GRADIENT, name)
        assert torch.equal(value, golden[f'in/{name}']), f'{name} was changed in place'
    check_parameters(layer, golden, mode)


def test_attention_equals_that_of_mmcv_bit_for_bit_on_a_cpu():
    ours = ResidualAttention(16, 4, dropout=0.0)
    theirs = MultiheadAttention(16, 4, dropout_layer=dict(type='Dropout', drop_prob=0.0), batch_first=True)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    query, query_pos = torch.randn(2, 2, 7, 16)
    key, key_pos = torch.randn(2, 2, 30, 16)
    expected = theirs(query, key, value=key + key_pos, query_pos=query_pos, key_pos=key_pos)
    assert torch.equal(ours(query, query_pos, key, key_pos), expected)


def test_old_word_dropout_sets_both_probabilities_and_nothing_else():
    attention = ResidualAttention(16, 4, dropout=0.3)
    assert (attention.attn.dropout, attention.dropout_layer.p, attention.proj_drop.p) == (0.3, 0.3, 0.0)
    assert MultiheadAttention(16, 4).dropout_layer.p == 0.0  # mmcv's shared default dict is as it was


def test_position_embedding_keeps_half_cells_apart_under_bfloat16():
    embedding = PositionEncodingLearned(2, 4).eval()
    positions = torch.tensor([[[179.5, 0.5], [179.0, 0.5]]])
    with torch.autocast('cpu', dtype=torch.bfloat16):
        embedded = embedding(positions)
    assert embedded.dtype == torch.float32
    assert torch.equal(embedded, embedding(positions))


def test_layer_trains_in_float64_with_right_gradients():
    layer = small_layer().double().eval()
    inputs = [
        torch.randn(1, 12, 2, dtype=torch.float64),
        torch.randn(1, 12, 3, dtype=torch.float64),
        torch.rand(1, 2, 2, dtype=torch.float64),
        torch.rand(1, 3, 2, dtype=torch.float64),
    ]
    assert torch.autograd.gradcheck(layer, [value.requires_grad_() for value in inputs])


def test_initialisation_is_xavier_with_neutral_norms_and_attention_biases():
    layer = small_layer()
    layer.init_weights()
    weight = layer.self_attn.attn.in_proj_weight
    assert weight.abs().max() <= (6 / (12 + 36)) ** 0.5
    assert weight.abs().max() > 0.9 * (6 / (12 + 36)) ** 0.5
    for name, parameter in layer.named_parameters():
        if 'norms' in name or name.endswith(('in_proj_bias', 'out_proj.bias')):
            assert torch.equal(parameter, torch.full_like(parameter, float(name.endswith('weight')))), name


def test_own_initialisation_config_comes_last():
    layer = small_layer(init_cfg=dict(type='Constant', layer='Conv1d', val=0.5))
    layer.init_weights()
    assert all(torch.equal(conv.weight, torch.full_like(conv.weight, 0.5)) for conv in layer.modules() if isinstance(conv, nn.Conv1d))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU: compares its fused attention with the CPU')
def test_gpu_equals_cpu():
    golden = load_golden('decoder_layer')
    layer = small_layer().eval()
    inputs = {name: golden[f'in/{name}'] for name in INPUTS}
    expected = layer(**inputs)
    actual = layer.cuda()(**{name: value.cuda() for name, value in inputs.items()})
    assert_close(actual, expected.detach(), FORWARD, 'query')
