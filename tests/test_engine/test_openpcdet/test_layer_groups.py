from torch import nn
from toy_models_openpcdet import ConvBN, Direct, Norms, Unused, set_frozen

from bevfusion_plugin.engine.openpcdet.layer_groups import layer_groups, trainable_outside


def test_batch_norm_forms_the_second_group_and_other_norms_do_not():
    first, second = layer_groups(Norms(4))
    assert {'a.1.weight', 'b.0.1.weight', 'c.sync.weight', 'up.2.weight'} < set(second)
    assert {'a.2.weight', 'b.1.weight', 'c.ln.weight', 'plist.0', 'plist.1'} < set(first)


def test_tied_parameters_and_modules_registered_twice_appear_once():
    names = [name for group in layer_groups(Norms(4)) for name in group]
    assert 'emb.weight' in names and 'tied.weight' not in names
    assert 'a.1.weight' in names and 'again.weight' not in names
    assert len(names) == len(set(names)) == len(list(Norms(4).parameters()))


def test_every_parameter_is_trained_by_default_and_leaf_modules_only_drops_those_beside_children():
    dropped = {'scale', 'gate.gain', 'attn.in_proj_weight'}
    everything = {name for name, _ in Direct(5, 6, 2).named_parameters()}
    assert set(layer_groups(Direct(5, 6, 2))[0]) == everything
    assert set(layer_groups(Direct(5, 6, 2), leaf_modules_only=True)[0]) == everything - dropped


def test_a_transformer_decoder_layer_loses_its_projections_under_leaf_modules_only():
    layer = nn.TransformerDecoderLayer(128, 8, 256)
    kept = sum(parameter.numel() for parameter in layer_groups(layer, leaf_modules_only=True)[0].values())
    lost = sum(parameter.numel() for parameter in layer.parameters()) - kept
    assert lost == 2 * 3 * (128 * 128 + 128)  # q, k and v of both attentions
    assert layer_groups(layer)[0].keys() == dict(layer.named_parameters()).keys()


def test_frozen_parameters_are_left_out():
    model = ConvBN(2, 4, 3)
    set_frozen(model, ['stem.conv.weight', 'stem.bn.bias'])
    names = [name for group in layer_groups(model) for name in group]
    assert names == ['block.conv.weight', 'fc.weight', 'fc.bias', 'stem.bn.weight', 'block.bn.weight', 'block.bn.bias']


def test_trainable_outside_names_what_no_group_has():
    model = Unused(4, 7, 2)
    assert trainable_outside(model, [model.fc1.weight, model.fc1.bias, model.head.weight]) == ['head.bias', 'aux.weight', 'aux.bias']
