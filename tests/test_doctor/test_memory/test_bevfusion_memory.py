import copy

import pytest
import torch
from mmengine.config import Config

from bevfusion_plugin.doctor.memory.bevfusion_memory import (
    LAWS,
    SECTOR,
    build_model,
    count_forward,
    measured_rows,
    memory_rows,
    model_memory,
    take_step,
)
from bevfusion_plugin.doctor.memory.saved_tensors import checkpointed_modules
from bevfusion_plugin.doctor.memory.synthetic_batch import real_sizes, synthetic_batch
from bevfusion_plugin.plan.memory_model import GIB, ModelMemory


# --cfg-options of a model without a lidar branch; the fuser takes the map of the cameras.
CAMERA_ONLY = {
    'model.pts_middle_encoder': None,
    'model.fusion_layer.in_channels': [32],
    'model.view_transform.type': 'bevfusion_plugin.LSSTransform',
}


@pytest.fixture(scope='module')
def demo(request):
    return Config.fromfile(request.config.rootpath / 'configs/bevfusion_demo.py')


def resized(cfg, height, width):
    cfg = copy.deepcopy(cfg)
    cfg.model.view_transform.update(image_size=[height, width], feature_size=[height // 8, width // 8])
    return cfg


@pytest.mark.parametrize('dtype, with_cp', [(torch.float32, False), (torch.float16, False), (torch.float16, True)])
def test_the_prediction_is_within_a_tenth_of_real_runs_at_two_other_sizes(demo, dtype, with_cp):
    saved, recomputed, sizes = count_forward(build_model(demo, with_cp), synthetic_batch(demo, 1, 1, SECTOR), dtype)
    model = ModelMemory(0, 0, 0, 0, saved, recomputed, sizes, LAWS)
    others = [(demo, 3, 2, 1 / 4), (resized(demo, 128, 256), 1, 3, 1 / 3)]  # config, samples, cameras, share of the scene
    for cfg, samples, cameras, share in others:
        real, again, real_sizes_ = count_forward(
            build_model(cfg, with_cp), synthetic_batch(cfg, samples, cameras, share, seed=1), dtype, products=True
        )
        factors = model.factors(real_sizes_)
        assert saved.scaled(factors).total == pytest.approx(real.total, rel=0.1)
        assert len(recomputed) == len(again) == (4 if with_cp else 0)
        for predicted, found in zip(recomputed, again):
            assert predicted.scaled(factors).total == pytest.approx(found.total, rel=0.1)
        assert real.total > 1.3 * saved.total, 'the sizes must differ for this to mean anything'


def test_half_precision_and_checkpointing_need_less(demo):
    full, half, checkpointed = (
        model_memory(demo, dtype, with_cp) for dtype, with_cp in ((torch.float32, False), (torch.float16, False), (torch.float16, True))
    )
    sizes = real_sizes(demo, 2)
    needs = [memory.rows(sizes, 1) for memory in (full, half, checkpointed)]
    assert 0.4 * needs[0]['activations'] < needs[1]['activations'] < 0.9 * needs[0]['activations']
    assert needs[2]['activations'] + needs[2].get('recomputed by checkpointing', 0) < 0.8 * needs[1]['activations']
    parameters = sum(p.numel() for p in build_model(demo).parameters() if p.requires_grad)
    assert needs[0]['gradients'] == 4 * parameters
    # AdamW: two float32 a parameter and a step of 4 bytes for each tensor
    assert 8 * parameters < needs[0]['optimizer state'] < 8 * parameters + 4 * 1000


def test_a_moving_average_is_counted(demo):
    cfg = copy.deepcopy(demo)
    cfg.custom_hooks.append(dict(type='bevfusion_plugin.EMAHook'))
    rows = model_memory(cfg, torch.float32).rows(real_sizes(cfg, 1), 1)
    assert rows['moving average of the weights'] == rows['parameters and buffers']


def test_a_step_leaves_gradients_and_unchanged_weights(demo):
    model = build_model(demo)
    before = {name: value.clone() for name, value in model.named_parameters()}
    take_step(model, demo, synthetic_batch(demo, 1, 1, 0.05), torch.float32)
    assert sum(p.grad is not None and bool(p.grad.any()) for p in model.parameters()) > 50
    changed = [name for name, value in model.named_parameters() if not torch.equal(value, before[name])]
    decay = 1 - demo.optim_wrapper.optimizer.lr * demo.optim_wrapper.optimizer.weight_decay
    assert all(torch.allclose(model.get_parameter(name), before[name] * decay) for name in changed)


def test_other_models_are_refused():
    with pytest.raises(ValueError, match="the memory model knows BEVFusion, got the model 'CenterPoint'"):
        build_model(Config(dict(model=dict(type='CenterPoint', data_preprocessor=dict(type='Det3DDataPreprocessor')))))


def test_a_model_without_cameras_can_be_checkpointed_too(request):
    cfg = Config.fromfile(request.config.rootpath / 'configs/bevfusion_lidar_4x4090.py')
    assert checkpointed_modules(build_model(cfg, with_cp=True))


def test_a_scene_outside_the_range_is_an_error(demo):
    cfg = copy.deepcopy(demo)
    cfg.model.data_preprocessor.voxelize_cfg.point_cloud_range = [500.0, 500.0, -5.0, 608.0, 608.0, 3.0]
    with pytest.raises(ValueError, match='no made-up point lies in point_cloud_range'):
        count_forward(build_model(cfg), synthetic_batch(cfg, 1, 1, 0.05), torch.float32)


@pytest.mark.skipif(torch.cuda.is_available(), reason='this machine has a GPU')
def test_probing_without_a_gpu_is_an_error(demo):
    with pytest.raises(ValueError, match='--probe measures on a GPU, and torch finds none'):
        memory_rows(demo, 1, torch.float32, with_cp=False, probe=True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU to measure on')
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16])
def test_the_prediction_is_near_what_a_gpu_measures(demo, dtype):
    predicted = sum(model_memory(demo, dtype).rows(real_sizes(demo, 2), 1).values())
    measured = sum(measured_rows(demo, 2, 1, dtype).values())
    assert predicted == pytest.approx(measured, abs=0.5 * GIB)


def test_a_model_with_cameras_alone_and_one_number_of_voxels_are_counted_too(demo):
    cfg = copy.deepcopy(demo)
    cfg.merge_from_dict(CAMERA_ONLY)
    less, whole = (memory_rows(each, 1, torch.float32, False, False)(2)['activations'] for each in (cfg, demo))
    assert 0 < less < whole
    cfg = copy.deepcopy(demo)
    cfg.model.data_preprocessor.voxelize_cfg.max_voxels = 30000
    assert real_sizes(cfg, 2) == real_sizes(demo, 2)


def test_cameras_alone_take_a_step_from_lines_of_the_config(demo):
    cfg = copy.deepcopy(demo)
    cfg.merge_from_dict(CAMERA_ONLY)
    model = build_model(cfg)
    take_step(model, cfg, synthetic_batch(cfg, 1, 2, SECTOR), torch.float32)
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)
    with torch.no_grad():
        found = model.eval().test_step(synthetic_batch(cfg, 1, 2, SECTOR))
    assert len(found[0].pred_instances_3d.bboxes_3d)
