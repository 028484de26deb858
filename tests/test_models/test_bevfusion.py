import copy
import json
import re

import pytest
import torch
from detector_goldens import build_detector, data_sample, in_float64, losses_of, recorded_batch, total_loss, without
from goldens import assert_close, golden_path, load_golden
from mmdet3d.apis import init_model
from mmengine.config import Config, ConfigDict

from bevfusion_plugin.registry import MODELS, build_nested

CASES = ['e2e_lidar', 'e2e_lidar_cam']


@pytest.fixture(params=CASES)
def golden(request):
    return load_golden(request.param)


@pytest.fixture
def lidar_cam():
    golden = load_golden('e2e_lidar_cam')
    return build_detector(golden), recorded_batch(golden)


@pytest.mark.parametrize('mode', ['eval', 'train'])
def test_losses_and_gradients_equal_the_reference(golden, mode):
    model = in_float64(build_detector(golden, mode))
    losses = losses_of(model, recorded_batch(golden))
    for name, expected in golden.group(f'{mode}/loss/').items():
        if name == 'matched_ious':  # a mean IoU near 0, so its error counts against 1 and not against itself
            assert abs(float(losses[name]) - float(expected)) < 1e-6
        else:
            assert_close(total_loss(losses) if name == 'total' else losses[name], expected, 1e-5, name)
    total_loss(losses).backward()
    parameters = dict(model.named_parameters())
    for name, expected in golden.group(f'{mode}/gpar/').items():
        assert_close(parameters[name].grad, expected, 1e-4, name)
    norms = [-1.0 if parameters[name].grad is None else parameters[name].grad.norm() for name in golden.meta['grad_norm_keys']]
    assert_close(torch.tensor(norms), golden[f'{mode}/grad_norms'], 1e-4, 'grad_norms')
    if mode == 'train':
        for name, expected in golden.group('train/sd_after/').items():
            assert_close(model.state_dict()[name], expected, 1e-5, name)


def test_every_stage_equals_the_reference(golden):
    model = build_detector(golden)
    outputs = {}
    for name in ('img_backbone', 'img_neck', 'view_transform', 'pts_middle_encoder', 'fusion_layer', 'pts_backbone', 'pts_neck'):
        if getattr(model, name) is not None:
            getattr(model, name).register_forward_hook(lambda module, args, out, name=name: outputs.setdefault(name, out))
    losses_of(model, recorded_batch(golden))
    for name, out in outputs.items():
        out = out if torch.is_tensor(out) else out[-1 if name == 'img_backbone' else 0]
        assert_close(out, golden[f'eval/stage/{name}'], 1e-5, name)
    assert set(outputs) == {key for key in golden.group('eval/stage/') if not key.endswith('_stats')}


def test_voxels_equal_the_reference(golden):
    features, coords = build_detector(golden, 'eval').voxelize(golden.series('in/points'))
    assert torch.equal(coords.long(), golden['out/voxel_coords'].long())
    assert_close(features, golden['out/voxel_feats'], 1e-6, 'voxel features')


def test_predictions_equal_the_reference(golden):
    model = build_detector(golden)
    data = model.data_preprocessor(recorded_batch(golden), training=False)
    with torch.no_grad():
        samples = model.predict(data['inputs'], data['data_samples'])
    for index, sample in enumerate(samples):
        result = sample.pred_instances_3d
        assert_close(result.scores_3d, golden[f'predict/scores{index}'], 1e-5, 'scores')
        assert_close(result.bboxes_3d.tensor, golden[f'predict/boxes{index}'], 1e-5, 'boxes')
        assert torch.equal(result.labels_3d.long(), golden[f'predict/labels{index}'].long())


@pytest.mark.parametrize('optimizer', ['sgd', 'adamw'])
@pytest.mark.parametrize('case, updates', [('e2e_lidar', 5), ('e2e_lidar_cam', 3)])
def test_updates_follow_the_reference(case, updates, optimizer):
    # In the second update of e2e_lidar_cam float32 takes the other side of a ReLU input of 4e-7, and then another matching.
    golden = load_golden(case)
    model = in_float64(build_detector(golden, 'train'))
    kwargs = golden.meta['training'][optimizer]
    updater = {'sgd': torch.optim.SGD, 'adamw': torch.optim.AdamW}[optimizer]([p for p in model.parameters() if p.requires_grad], **kwargs)
    totals, norms = [], []
    for _ in range(updates):
        loss = total_loss(losses_of(model, recorded_batch(golden)))
        updater.zero_grad()
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), golden.meta['training']['clip_grad_norm']))
        updater.step()
        totals.append(loss.detach())
    assert_close(torch.stack(totals), golden[f'training_{optimizer}/total_loss'][:updates], 1e-4, 'loss')
    norm_tolerance = max(2e-3, 3 * golden.meta['reproducibility'].get(f'training_{optimizer}/grad_norm', 0))
    assert_close(torch.stack(norms), golden[f'training_{optimizer}/grad_norm'][:updates], norm_tolerance, 'gradient norm')


@pytest.mark.parametrize(
    'manifest, config', [('manifest_lidar', 'bevfusion_lidar_4x4090.py'), ('manifest_lidar_cam', 'bevfusion_4x4090.py')]
)
def test_full_size_state_dict_equals_the_manifest(manifest, config, request):
    recorded = json.loads(golden_path(f'{manifest}.json').read_text())
    cfg = Config.fromfile(request.config.rootpath / 'configs' / config).model
    model = build_nested(MODELS, cfg)
    state, parameters = model.state_dict(), dict(model.named_parameters())
    ours = [
        dict(
            key=key,
            shape=list(value.shape),
            dtype=str(value.dtype).removeprefix('torch.'),
            is_parameter=key in parameters,
            requires_grad=parameters[key].requires_grad if key in parameters else False,
        )
        for key, value in state.items()
    ]
    by_key = lambda entries: sorted(entries, key=lambda entry: entry['key'])  # noqa: E731
    assert by_key(ours) == by_key(recorded['keys'])


def test_first_loss_is_that_of_an_initialised_head(golden):
    model = build_nested(MODELS, ConfigDict(golden.meta['cfg']))
    model.init_weights()
    losses = losses_of(model.train(), recorded_batch(golden))
    # The reference never applies its heatmap bias of -2.19 and starts near 1200 at full size.
    assert losses['loss_heatmap'] < 20
    assert model.bbox_head.heatmap_head[-1].bias.detach().mean().item() == pytest.approx(-2.19)


def test_initialisation_changes_what_the_docstring_says_beside_the_references(golden):
    model = build_nested(MODELS, ConfigDict(golden.meta['cfg']))
    before = copy.deepcopy(model.state_dict())
    model.init_weights()
    changed = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    reference = {name for name in changed if name.startswith(('img_backbone.', 'bbox_head.decoder.'))}
    kinds = {name: type(module).__name__ for name, module in model.named_modules()}
    for name in changed - reference:
        part, kind = name.split('.')[0], kinds[name.rpartition('.')[0]]
        assert (part, kind) in (('pts_backbone', 'Conv2d'), ('pts_neck', 'ConvTranspose2d')) or re.fullmatch(
            r'bbox_head\.(heatmap_head\.1|prediction_heads\.\d\.heatmap\.1)\.bias', name
        ), name
    assert {name.split('.')[0] for name in changed - reference} == {'pts_backbone', 'pts_neck', 'bbox_head'}
    decoder = {name for name, value in model.bbox_head.decoder.named_parameters() if value.dim() > 1}
    assert {f'bbox_head.decoder.{name}' for name in decoder} == {name for name in reference if name.startswith('bbox_head.')}


@pytest.mark.parametrize('which', [0, 1, 'all'])
@pytest.mark.parametrize('what', ['points', 'boxes'])
def test_samples_without_points_or_boxes_train_and_predict(lidar_cam, which, what):
    model, batch = lidar_cam
    model.train()
    for index in [0, 1] if which == 'all' else [which]:
        if what == 'points':
            batch['inputs']['points'][index] = batch['inputs']['points'][index][:0]
        else:
            meta = dict(without(batch['data_samples'][index]).metainfo.items())
            meta.pop('box_type_3d')
            batch['data_samples'][index] = data_sample(torch.zeros(0, 9), torch.zeros(0, dtype=torch.long), meta)
    loss = total_loss(losses_of(model, batch))
    assert loss.isfinite()
    loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    model.eval()
    data = model.data_preprocessor(batch, training=False)
    assert len(model.predict(data['inputs'], data['data_samples'])) == 2


def test_the_batch_keeps_its_size_when_the_last_sample_has_no_points(lidar_cam):
    model, batch = lidar_cam
    batch['inputs']['points'][1] = batch['inputs']['points'][1][:0]
    assert model.extract_pts_feat(batch['inputs']).shape[0] == 2


def test_points_of_the_caller_stay_as_they_are(lidar_cam):
    model, batch = lidar_cam
    before = [points.clone() for points in batch['inputs']['points']]
    data = model.data_preprocessor(batch, training=True)
    model.loss(data['inputs'], data['data_samples'])
    assert all(torch.equal(a, b) for a, b in zip(data['inputs']['points'], before))


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_autocast_keeps_the_loss_close(dtype):
    golden = load_golden('e2e_lidar_cam')
    model = build_detector(golden)
    with torch.autocast('cpu', dtype=dtype):
        losses = losses_of(model, recorded_batch(golden))
    assert total_loss(losses).isfinite()
    assert losses['loss_heatmap'].item() == pytest.approx(golden['eval/loss/loss_heatmap'].item(), rel=0.05)


def test_config_is_left_unchanged_by_building():
    cfg = ConfigDict(load_golden('e2e_lidar').meta['cfg'])
    before = copy.deepcopy(cfg)
    build_nested(MODELS, cfg)
    assert cfg == before


def test_prefixed_names_build_the_same_model():
    cfg = ConfigDict(load_golden('e2e_lidar').meta['cfg'])
    bare = build_nested(MODELS, cfg)
    cfg.type = 'bevfusion_plugin.BEVFusion'
    cfg.bbox_head.type = 'bevfusion_plugin.TransFusionHead'
    assert type(build_nested(MODELS, cfg).bbox_head) is type(bare.bbox_head)


def test_one_number_of_voxels_is_for_training_and_testing_as_in_mmdet3d():
    cfg = ConfigDict(load_golden('e2e_lidar').meta['cfg'])
    cfg.data_preprocessor.voxelize_cfg.max_voxels = 3
    model = build_nested(MODELS, cfg)
    points = load_golden('e2e_lidar').series('in/points')[:1]
    assert [len(model.train(training).voxelize(points)[0]) for training in (True, False)] == [3, 3]


def camera_only(view_transform, **changes):
    cfg = ConfigDict(load_golden('e2e_lidar_cam').meta['cfg'])
    cfg.update(pts_middle_encoder=None, **changes)
    cfg.view_transform.type = view_transform
    if cfg.fusion_layer is not None:
        cfg.fusion_layer.in_channels = cfg.fusion_layer.in_channels[:1]
    else:
        cfg.pts_backbone.in_channels = cfg.view_transform.out_channels
    torch.manual_seed(0)
    return build_nested(MODELS, cfg)


@pytest.mark.parametrize('changes', [{}, dict(fusion_layer=None), dict(pts_voxel_encoder=None)])
@pytest.mark.parametrize('loads_points', [True, False])
def test_cameras_alone_train_and_predict(changes, loads_points):
    model, batch = camera_only('LSSTransform', **changes), recorded_batch(load_golden('e2e_lidar_cam'))
    if not loads_points:
        del batch['inputs']['points']
    loss = total_loss(losses_of(model.train(), batch))
    loss.backward()
    assert loss.isfinite() and all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad and p.grad is not None)
    data = model.eval().data_preprocessor(batch, training=False)
    assert len(model.predict(data['inputs'], data['data_samples'])) == 2


def test_points_missing_is_an_error_for_whatever_needs_them(lidar_cam):
    model, batch = lidar_cam
    del batch['inputs']['points']
    with pytest.raises(ValueError, match="has a lidar branch, but the batch has no points; add 'points' to the keys of Pack3DDetInputs"):
        losses_of(model, batch)
    with pytest.raises(ValueError, match='DepthLSSTransform projects lidar points.*LSSTransform'):
        losses_of(camera_only('DepthLSSTransform'), batch)


def test_mmdet3ds_inference_api_builds_the_detector(request):
    model = init_model(Config.fromfile(request.config.rootpath / 'configs/bevfusion_demo.py'), device='cpu')
    assert type(model) is MODELS.get('bevfusion_plugin.BEVFusion') and not model.training
