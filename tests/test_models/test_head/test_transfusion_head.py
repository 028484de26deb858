import json

import pytest
import torch
from goldens import assert_close, golden_path, load_golden
from mmdet3d.structures import Det3DDataSample
from mmengine.config import ConfigDict
from module_goldens import FORWARD, GRADIENT, check_parameters
from recorded_heads import HEADS, METAS, TRAINED_HEADS, build, recorded, recorded_gt, total
from torch import nn

from bevfusion_plugin.models.head.heuristic_assigner_3d import HeuristicAssigner3D
from bevfusion_plugin.models.head.transfusion_head import TransFusionHead
from bevfusion_plugin.registry import MODELS

CODE = ('center', 'height', 'dim', 'rot', 'vel')


@pytest.mark.parametrize('name', HEADS)
@pytest.mark.parametrize('mode', ['eval', 'train'])
def test_predictions_equal_the_reference(name, mode):
    golden = load_golden(name)
    head = recorded(golden).double().train(mode == 'train')
    ((preds,),) = head(golden['in/x'].double(), METAS)
    expected = golden.group(f'{mode}/out/')
    assert set(preds) == set(expected)
    for key, value in expected.items():
        assert_close(preds[key], value, FORWARD, key)
    for key, value in golden.group('train/sd_after/').items() if mode == 'train' else ():
        assert_close(head.state_dict()[key], value, FORWARD, key)


@pytest.mark.parametrize('name', TRAINED_HEADS)
@pytest.mark.parametrize('mode', ['eval', 'train'])
def test_targets_equal_the_reference(name, mode):
    golden = load_golden(name)
    targets = recorded(golden).get_targets(recorded_gt(golden), [golden.group(f'{mode}/out/')])
    for key, value in golden.group(f'{mode}/targets/').items():
        actual = torch.as_tensor(getattr(targets, key))
        if key in ('labels', 'label_weights', 'bbox_weights', 'num_pos', 'heatmap'):
            assert torch.equal(actual, value), key
        else:
            assert_close(actual, value, FORWARD, key)


@pytest.mark.parametrize('name', TRAINED_HEADS)
@pytest.mark.parametrize('mode', ['eval', 'train'])
def test_losses_and_gradients_equal_the_reference(name, mode):
    golden = load_golden(name)
    head = recorded(golden).train(mode == 'train')
    bev = golden['in/x'].requires_grad_()
    ((preds,),) = head(bev, METAS)
    # Some recorded velocities equal their target exactly, where the L1 loss has no slope: a round-off would give one.
    # So the losses get the recorded numbers, with our graph behind them.
    for key in CODE:
        if key in preds:  # p - p is exactly 0
            preds[key] = preds[key] - preds[key].detach() + golden[f'{mode}/out/{key}']
    losses = head.loss_by_feat(([preds],), recorded_gt(golden))
    for key, value in golden.group(f'{mode}/loss/').items():
        assert_close(total(losses) if key == 'total' else losses[key], value, FORWARD, key)
    total(losses).backward()
    assert_close(bev.grad, golden[f'{mode}/gin/x'], GRADIENT, 'in/x')
    check_parameters(head, golden, mode)


@pytest.mark.parametrize('name', HEADS)
def test_detections_equal_the_reference(name):
    golden = load_golden(name)
    detections = recorded(golden).eval().predict([golden['in/x']], METAS)
    for i, sample in enumerate(detections):
        assert_close(sample.bboxes_3d.tensor, golden[f'predict/boxes{i}'], FORWARD, f'boxes{i}')
        assert_close(sample.scores_3d, golden[f'predict/scores{i}'], FORWARD, f'scores{i}')
        assert torch.equal(sample.labels_3d, golden[f'predict/labels{i}'])


def test_loss_from_data_samples_equals_loss_from_features():
    golden = load_golden('head_nuscenes')
    head = recorded(golden).eval()
    samples = [Det3DDataSample(gt_instances_3d=gt) for gt in recorded_gt(golden)]
    losses = head.loss([golden['in/x']], samples)
    assert total(losses).item() == total(head.loss_by_feat(head(golden['in/x']), recorded_gt(golden))).item()


def test_the_head_remembers_nothing_between_forward_and_loss():
    golden = load_golden('head_nuscenes')
    head = recorded(golden).eval()
    attributes = set(vars(head))
    predictions, others = head(golden['in/x']), head(golden['in/x'].flip(0))
    assert set(vars(head)) == attributes and not torch.equal(predictions[0][0]['query_labels'], others[0][0]['query_labels'])
    assert_close(head.predict_by_feat(predictions, METAS)[1].scores_3d, golden['predict/scores1'], FORWARD, 'scores')


def without_labels(preds):
    return ([{key: value for key, value in preds.items() if key != 'query_labels'}],)


def test_the_reference_assigner_needs_no_query_labels():
    golden = load_golden('head_nuscenes')
    head = recorded(golden).eval()
    preds = head(golden['in/x'])
    losses, expected = (head.loss_by_feat(each, recorded_gt(golden)) for each in (without_labels(preds[0][0]), preds))
    assert {key: value.item() for key, value in losses.items()} == {key: value.item() for key, value in expected.items()}


def test_predictions_without_query_labels_are_refused_where_they_decide():
    golden = load_golden('head_nuscenes')
    head = recorded(golden).eval()
    preds = without_labels(golden.group('eval/out/'))
    problem = "need 'query_labels', the class of each query's proposal, got center"
    with pytest.raises(ValueError, match=problem):
        head.predict_by_feat(preds, METAS)
    head.bbox_assigner = HeuristicAssigner3D()
    with pytest.raises(ValueError, match=problem):
        head.loss_by_feat(preds, recorded_gt(golden))


def test_full_head_has_the_parameters_of_the_manifest():
    manifest = json.loads(golden_path('manifest_lidar.json').read_text())
    attention = dict(embed_dims=128, num_heads=8, dropout=0.1)
    head = build(
        num_proposals=200,
        in_channels=512,
        hidden_channel=128,
        decoder_layer=dict(
            type='TransformerDecoderLayer',
            self_attn_cfg=attention,
            cross_attn_cfg=attention,
            norm_cfg=dict(type='LN'),
            ffn_cfg=dict(embed_dims=128, feedforward_channels=256, num_fcs=2, ffn_drop=0.1, act_cfg=dict(type='ReLU')),
            pos_encoding_cfg=dict(input_channel=2, num_pos_feats=128),
        ),
    )
    head.init_weights()
    prefix = 'bbox_head.'
    expected = {
        entry['key'][len(prefix) :]: (entry['shape'], entry['dtype']) for entry in manifest['keys'] if entry['key'].startswith(prefix)
    }
    state = head.state_dict()
    assert {key: (list(value.shape), str(value.dtype)[len('torch.') :]) for key, value in state.items()} == expected
    assert sum(p.numel() for p in head.parameters()) == manifest['parameters_by_top_module']['bbox_head']
    for key, value in manifest['constant_initial_values_bbox_head'].items():
        assert (state[key[len(prefix) :]] == value).all(), key
    modules = dict(head.named_modules())
    for key, norm in manifest['norm_layers'].items():
        if key.startswith(prefix):
            module = modules[key[len(prefix) :]]
            assert {name: getattr(module, name) for name in norm if name != 'type'} == {
                name: value for name, value in norm.items() if name != 'type'
            }, key


def test_initialisation_starts_with_a_low_heatmap():
    head = build(num_decoder_layers=2)
    head.init_weights()
    for conv in (head.heatmap_head[-1], *(layer.heatmap[-1] for layer in head.prediction_heads)):
        assert torch.equal(conv.bias, torch.full_like(conv.bias, -2.19))
    weight = head.decoder[1].ffn.layers[1].weight  # (16, 24)
    assert 0.9 * (6 / 40) ** 0.5 < weight.abs().max() <= (6 / 40) ** 0.5
    golden = load_golden('head_nuscenes')
    assert head.loss_by_feat(head(golden['in/x']), recorded_gt(golden))['loss_heatmap'] < 10  # 22 as recorded


def test_batch_norms_get_the_momentum():
    head = build(bn_momentum=0.03)
    norms = [m for m in head.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert len(norms) == 9 and all(norm.momentum == 0.03 for norm in norms)


@pytest.mark.parametrize('name', TRAINED_HEADS)
def test_bare_and_prefixed_names_build_the_same_and_leave_the_config_alone(name):
    cfg = load_golden(name).meta['cfg']
    prefixed = json.loads(json.dumps(cfg))
    prefixed['type'] = 'bevfusion_plugin.TransFusionHead'
    prefixed['decoder_layer']['type'] = 'bevfusion_plugin.TransformerDecoderLayer'
    prefixed['train_cfg']['assigner']['iou_calculator']['type'] = 'mmdet3d.BboxOverlaps3D'
    before = json.dumps(prefixed)
    head = MODELS.build(ConfigDict(prefixed))
    assert isinstance(head, TransFusionHead)
    assert list(head.state_dict()) == list(build(name).state_dict())
    assert json.dumps(prefixed) == before
