"""Numbers of a device against those recorded from the reference, against its own float32, and against the CPU's."""

import copy
import importlib.util

import pytest
import torch
from detector_goldens import build_detector, recorded_batch, total_loss
from goldens import assert_close, load_golden
from lidar_scene import encoder_and_voxels
from torch import Tensor
from torch.utils._pytree import tree_map_only

from bevfusion_plugin.ops.sparse import backend

# float32 on another device sums in another order. The recorded case holds ReLU inputs of 1e-8, so that a few units may be on or off.
LOSS, STAGE, GRADIENT_NORM = 1e-3, 1e-3, 5e-2
# Of the losses in half precision; 1e-2 and 3e-2 are what a CPU shows.
LOW = {'float16': 0.05, 'bfloat16': 0.1}
# A sparse backend against our torch code on the CPU: share of the largest value (ops/sparse/trial.py), here through 11 layers.
SPARSE = {torch.float32: 0.02, torch.float16: 0.1}


def on(device, golden, mode='eval'):
    """The recorded detector on the device and the batch as its preprocessor hands it on."""
    model = build_detector(golden, mode).to(device)
    return model, model.data_preprocessor(copy.deepcopy(recorded_batch(golden)), training=True)


@pytest.mark.parametrize('case', ['e2e_lidar', 'e2e_lidar_cam'])
def test_losses_stages_and_gradients_are_the_recorded_ones(device, case):
    golden = load_golden(case)
    model, data = on(device, golden)
    stages = {}
    for name in ('img_backbone', 'img_neck', 'view_transform', 'pts_middle_encoder', 'fusion_layer', 'pts_backbone', 'pts_neck'):
        if getattr(model, name) is not None:
            getattr(model, name).register_forward_hook(lambda module, args, out, name=name: stages.setdefault(name, out))
    losses = model.loss(data['inputs'], data['data_samples'])
    for name, out in stages.items():
        out = out if torch.is_tensor(out) else out[-1 if name == 'img_backbone' else 0]
        assert_close(out, golden[f'eval/stage/{name}'], STAGE, name)
    for name, expected in golden.group('eval/loss/').items():
        found = (total_loss(losses) if name == 'total' else losses[name]).item()
        assert found == pytest.approx(float(expected), rel=LOSS, abs=LOSS), name
    total_loss(losses).backward()
    parameters = dict(model.named_parameters())
    norms = [-1.0 if parameters[name].grad is None else parameters[name].grad.norm().item() for name in golden.meta['grad_norm_keys']]
    assert_close(torch.tensor(norms), golden['eval/grad_norms'], GRADIENT_NORM, 'gradient norms')


def test_predictions_are_the_recorded_ones(device):
    golden = load_golden('e2e_lidar_cam')
    model = build_detector(golden).to(device)
    data = model.data_preprocessor(recorded_batch(golden), training=False)
    with torch.no_grad():
        samples = model.predict(data['inputs'], data['data_samples'])
    for index, sample in enumerate(samples):
        best = slice(0, 10)  # equal scores further down may change places
        assert_close(sample.pred_instances_3d.scores_3d[best], golden[f'predict/scores{index}'][best], 1e-3, 'scores')


@pytest.mark.parametrize('dtype', list(LOW))
def test_half_precision_is_near_float32_and_all_gradients_are_finite(device, dtype):
    golden = load_golden('e2e_lidar_cam')
    model, data = on(device, golden)
    expected = model.loss(data['inputs'], data['data_samples'])
    with torch.autocast(device, getattr(torch, dtype)):
        losses = model.loss(data['inputs'], data['data_samples'])
    (128 * total_loss(losses)).backward()  # a loss scale, lest float16 rounds small gradients to zero
    for name in ('loss_heatmap', 'layer_-1_loss_cls'):
        assert float(losses[name]) == pytest.approx(float(expected[name]), rel=LOW[dtype]), name
    missing = [name for name, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.isfinite().all())]
    assert not missing


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16])
@pytest.mark.parametrize('name', ['torch', *backend.PACKAGES])
def test_every_sparse_backend_computes_what_the_cpu_does(device, name, dtype, monkeypatch):
    if name != 'torch' and device == 'cpu':
        pytest.skip(f'{name} trains on CUDA only')
    if name != 'torch' and importlib.util.find_spec(name) is None:
        pytest.skip(f'{name} is not installed')
    expected = encoded('cpu', torch.float32)
    monkeypatch.setenv(backend.VARIABLE, name)
    backend.sparse_backend.cache_clear()
    found = encoded(device, dtype)
    backend.sparse_backend.cache_clear()
    for what, (result, wanted) in enumerate(zip(found, expected, strict=True)):
        assert_close(result.float(), wanted, SPARSE[dtype], f'result {what}')


def encoded(device: str, dtype: torch.dtype) -> list[Tensor]:
    """Map of a demo-size encoder, and its gradients by features and parameters."""
    encoder, features, coords = tree_map_only((Tensor, torch.nn.Module), lambda each: each.to(device), encoder_and_voxels())
    features = features.clone().requires_grad_()
    with torch.autocast(device, dtype, enabled=dtype is not torch.float32):
        bev = encoder(features, coords, 2)
    weight = torch.linspace(-1, 1, bev.numel(), device=device).view_as(bev)
    gradients = torch.autograd.grad((bev * weight).sum(), [features, *encoder.parameters()])
    return [bev.detach().cpu(), *(gradient.cpu() for gradient in gradients)]
