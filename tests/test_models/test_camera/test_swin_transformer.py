import copy

import pytest
import torch
from mmdet.models.backbones import swin

from bevfusion_plugin.models.camera.swin_transformer import DropPath, SwinTransformer
from bevfusion_plugin.registry import MODELS, build_nested

SMALL = dict(
    embed_dims=8, depths=[2, 2, 3, 2], num_heads=[1, 2, 2, 4], window_size=4, mlp_ratio=2, out_indices=[1, 2, 3], drop_path_rate=0.0
)


def both():
    """mmdet's and ours with the same parameters."""
    theirs, ours = swin.SwinTransformer(**SMALL), SwinTransformer(**SMALL)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


@pytest.mark.parametrize('size', [(64, 96), (72, 40)], ids=['whole windows', 'padded windows'])
def test_maps_and_gradients_are_those_of_mmdet(size):
    theirs, ours = both()
    images = torch.randn(2, 3, *size)
    wanted, maps = theirs(images), ours(images)
    assert all(torch.equal(a, b) for a, b in zip(maps, wanted, strict=True))
    for model, outputs in ((theirs, wanted), (ours, maps)):
        sum(output.square().sum() for output in outputs).backward()
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(ours.parameters(), theirs.parameters()) if b.grad is not None)


def test_each_size_has_masks_of_its_own_and_training_may_follow_inference():
    theirs, ours = both()
    with torch.inference_mode():
        for size in ((64, 96), (72, 40)):
            ours(torch.randn(1, 3, *size))
    images = torch.randn(1, 3, 64, 96)
    maps = ours(images)
    assert torch.equal(maps[-1], theirs(images)[-1])
    maps[-1].sum().backward()


def test_a_copy_and_bare_and_prefixed_names_work():
    ours = build_nested(MODELS, dict(type='SwinTransformer', **SMALL))
    assert type(ours) is SwinTransformer and type(build_nested(MODELS, dict(type='mmdet.SwinTransformer', **SMALL))) is not SwinTransformer
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(ours(images)[0], copy.deepcopy(ours)(images)[0])


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_stochastic_depth_drops_whole_samples_and_keeps_the_mean(dtype):
    ours = SwinTransformer(**dict(SMALL, drop_path_rate=0.2))
    depth = [module for module in ours.modules() if isinstance(module, DropPath)][-1]
    assert depth.drop_prob == pytest.approx(0.2)
    ones = torch.ones(20000, 2, 3, dtype=dtype, requires_grad=True)
    dropped = depth(ones)
    first = dropped[:, :1, :1]
    assert torch.equal(dropped, first.expand_as(dropped)) and set(first.unique().tolist()) == {
        0,
        (torch.ones((), dtype=dtype) / 0.8).item(),
    }
    assert (first == 0).float().mean().item() == pytest.approx(0.2, abs=0.012)  # four standard deviations
    dropped.sum().backward()
    assert torch.equal(ones.grad, dropped)
    assert depth.eval()(ones) is ones


def test_mmdets_own_models_stay_as_they_are():
    SwinTransformer(**SMALL)
    assert not any(isinstance(module, DropPath) for module in swin.SwinTransformer(**SMALL).modules())
