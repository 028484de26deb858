"""The full-size models on a real nuScenes frame against the numbers of the reference."""

import json

import numpy as np
import pytest
import torch
from detector_goldens import total_loss
from goldens import assert_close, golden_path, load_golden
from mmengine.structures import InstanceData
from real_frame import full_size_model, keyed_tensor, real_batch

STAGES = ('img_backbone', 'img_neck', 'view_transform', 'pts_middle_encoder', 'fusion_layer', 'pts_backbone', 'pts_neck')


class Run:
    """One forward pass of a full-size model, with what it gave at every stage."""

    def __init__(self, kind, mode, golden):
        self.golden, self.mode = golden, mode
        # Of 2 million frustum points some lie on a cell's border to the last bit, and the machine decides on which side. One that
        # moves changes the camera map around it and, in train mode, BatchNorm's statistics. (share of samples, largest error):
        self.moved = (0.0, 1e-4) if kind == 'lidar' else (0.02 if mode == 'eval' else 0.2, 5e-3)
        self.model = full_size_model(kind).train(mode == 'train')
        self.stages = {}
        for name in STAGES:
            if getattr(self.model, name) is not None:
                getattr(self.model, name).register_forward_hook(lambda module, args, out, name=name: self.stages.__setitem__(name, out))
        data = self.model.data_preprocessor(real_batch(kind), training=True)
        self.inputs, self.samples = data['inputs'], data['data_samples']
        with torch.set_grad_enabled(mode == 'train'):
            feats = self.model.extract_feat(self.inputs, [self.samples[0].metainfo])
            self.preds = self.model.bbox_head(feats, [self.samples[0].metainfo])
        self.query_labels = self.preds[0][0]['query_labels']

    def check_samples(self, actual, expected, what):
        """All samples within 1e-4 of the largest, but for those near a moved frustum point."""
        error = (actual.detach() - expected).abs() / expected.abs().max()
        share = float((error > 1e-4).float().mean())
        assert float(error.max()) <= self.moved[1] and share <= self.moved[0], f'{what}: {error.max():.1e}, {share:.1%} differ'

    def losses(self, index=None):
        instances = self.samples[0].gt_instances_3d
        chosen = InstanceData(
            bboxes_3d=instances.bboxes_3d if index is None else instances.bboxes_3d[index],
            labels_3d=instances.labels_3d if index is None else instances.labels_3d[index],
        )
        return self.model.bbox_head.loss_by_feat(self.preds, [chosen])


@pytest.fixture(
    scope='module', params=[('lidar', 'eval'), ('lidar', 'train'), ('lidar_cam', 'eval'), ('lidar_cam', 'train')], ids=lambda p: '-'.join(p)
)
def run(request):
    kind, mode = request.param
    return Run(kind, mode, load_golden(f'real_frame_{kind}'))


def check_losses(run, group, losses, rel):
    for name, expected in run.golden.group(f'{run.mode}/{group}/').items():
        actual = total_loss(losses) if name == 'total' else losses[name]
        assert abs(float(actual) - float(expected)) <= rel * max(abs(float(expected)), 1e-3), f'{name}: {actual} != {expected}'


def test_losses_equal_the_reference(run):
    with torch.no_grad():
        check_losses(run, 'loss_all_gt', run.losses(), 2e-3)
        check_losses(run, 'loss', run.losses(run.golden['in/one_per_class_index']), 1e-5)


def test_stages_equal_the_reference(run):
    for name, out in run.stages.items():
        outs = [out] if torch.is_tensor(out) else list(out)
        sampled = outs[-1 if name == 'img_backbone' else 0]
        index = run.golden[f'{run.mode}/stage/{name}_sample_index']
        run.check_samples(sampled.flatten()[index], run.golden[f'{run.mode}/stage/{name}_sample'], name)
    assert set(run.stages) == {name for name in STAGES if f'{run.mode}/stage/{name}_sample' in run.golden.arrays}


def test_proposals_and_head_outputs_equal_the_reference(run):
    golden, mode = run.golden, run.mode
    preds = run.preds[0][0]
    run.check_samples(
        preds['dense_heatmap'].flatten()[golden[f'{mode}/head/dense_heatmap_sample_index']],
        golden[f'{mode}/head/dense_heatmap_sample'],
        'dense_heatmap',
    )
    assert sorted(run.query_labels[0].tolist()) == sorted(golden[f'{mode}/head/proposal_class'][0].tolist())
    for name in ('center', 'height', 'dim', 'rot', 'vel', 'heatmap', 'query_heatmap_score'):
        assert_same_columns(preds[name][0].detach(), golden[f'{mode}/head/{name}'][0], 1e-3, name)


def assert_same_columns(actual, expected, rel, what):
    """Equal up to an exchange of neighbouring columns."""
    scale = expected.abs().max()
    shifted = torch.stack([(actual.roll(shift, dims=1) - expected).abs().amax(dim=0) for shift in (-1, 0, 1)])
    assert (shifted.amin(dim=0) <= rel * scale).all(), f'{what}: {float(shifted.amin(dim=0).max() / scale):.1e}'
    assert (shifted[1] <= rel * scale).float().mean() >= 0.97, f'{what}: more than round-off changes places'


def test_gradients_and_running_statistics_equal_the_reference(run):
    if run.mode == 'eval':
        pytest.skip('gradients are recorded in train mode')
    run.model.zero_grad()
    total_loss(run.losses(run.golden['in/one_per_class_index'])).backward(retain_graph=True)
    parameters = dict(run.model.named_parameters())
    for name, expected in run.golden.group('train/gpar_sample/').items():
        index = run.golden[f'train/gpar_sample_index/{name}']
        assert_close(parameters[name].grad.flatten()[index], expected, 5e-2, name)
    for kind in ('mean', 'var'):
        norms = torch.stack([run.model.get_submodule(name).get_buffer(f'running_{kind}').norm() for name in run.golden.meta['bn_keys']])
        assert_close(norms, run.golden[f'train/running_{kind}_norms'], 1e-5, f'running_{kind}')


def test_predictions_equal_the_reference(run):
    if run.mode == 'train':
        pytest.skip('predictions are recorded in eval mode')
    result = run.model.bbox_head.predict_by_feat(run.preds, [run.samples[0].metainfo])[0]
    expected = run.golden['predict/boxes']
    assert_same_columns(result.bboxes_3d.tensor.T, expected.T, 1e-3, 'boxes')
    assert_same_columns(result.scores_3d[None], run.golden['predict/scores'][None], 1e-4, 'scores')


def test_voxels_equal_the_reference(run):
    features, coords = run.model.voxelize(run.inputs['points'])
    assert_close(features.double().sum(0), run.golden['out/voxel_feats_sum'], 1e-6, 'sum of the features')
    order = np.lexsort(coords[:, [3, 2, 1]].T.numpy())[::300]
    assert torch.equal(coords[order].long(), run.golden['out/voxels_every_300_coords'].long())
    assert_close(features[order], run.golden['out/voxels_every_300_feats'], 1e-6, 'features')


@pytest.mark.parametrize('kind', ['lidar', 'lidar_cam'])
def test_keyed_weights_follow_their_rule(kind):
    recorded = json.loads(golden_path('keyed_weights.json').read_text())
    tweaked = tuple(suffix for suffix, _, _ in recorded['rule']['tweaks'])
    checked = 0
    for key, entry in recorded[kind]['values'].items():
        if not key.endswith(tweaked):
            ours = keyed_tensor(key, tuple(entry['shape']), recorded[kind]['seed'])
            assert ours.flatten()[:4].tolist() == pytest.approx(entry['first4'], rel=1e-6)
            checked += 1
    assert checked >= 3
