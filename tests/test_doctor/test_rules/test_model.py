import pytest
from mmengine.config import Config
from reference_recipes import reference_fusion, reference_lidar

from bevfusion_plugin.doctor.case import Case
from bevfusion_plugin.doctor.mend import changed
from bevfusion_plugin.doctor.reading.voxel_grid import VoxelGrid, head_stride, voxel_grid
from bevfusion_plugin.doctor.rules import map_sizes
from bevfusion_plugin.doctor.rules import model as model_rules


@pytest.fixture
def fusion():
    return reference_fusion()


def problems(check, cfg, gpus=8):
    return list(check(Case(cfg, gpus)))


def mended(check, cfg):
    (found,) = problems(check, cfg)
    new = changed(cfg, found.changes)
    assert not problems(check, new)
    return new


CHECKS = [value for name, value in vars(model_rules).items() if name.startswith('check_')]


@pytest.mark.parametrize('check', [check for check in CHECKS if check is not model_rules.check_memory], ids=lambda check: check.__name__)
def test_the_reference_model_is_sound(check, fusion):
    assert not problems(check, fusion) and not problems(check, reference_lidar())


def test_the_grid_is_the_voxelizers(fusion):
    assert voxel_grid(fusion).cells == (1440, 1440, 40) and head_stride(fusion) == 8
    assert VoxelGrid((0.05, 0.05, 0.1), (0, -40, -3, 70.4, 40, 1)).cells == (1408, 1600, 40)


def test_reversed_axes_are_turned(fusion):
    fusion.model.pts_middle_encoder.sparse_shape = [41, 1440, 1440]
    assert mended(model_rules.check_sparse_shape_order, fusion).model.pts_middle_encoder.sparse_shape == [1440, 1440, 41]
    assert not problems(model_rules.check_sparse_shape_size, fusion), 'one finding is enough'


def test_mmdet3ds_own_encoder_takes_z_first(fusion):
    fusion.model.pts_middle_encoder.update(type='SparseEncoder')
    assert 'takes (z, y, x)' in problems(model_rules.check_sparse_shape_order, fusion)[0].message
    assert mended(model_rules.check_sparse_shape_order, fusion).model.pts_middle_encoder.sparse_shape == [41, 1440, 1440]


@pytest.mark.parametrize('shape', [[1024, 1024, 41], [1440, 1440, 20], [1440, 1440, 400]])
def test_another_sparse_grid_is_replaced(fusion, shape):
    fusion.model.pts_middle_encoder.sparse_shape = shape
    assert mended(model_rules.check_sparse_shape_size, fusion).model.pts_middle_encoder.sparse_shape == [1440, 1440, 41]


def test_a_head_on_another_grid_gets_the_voxelizers_values(fusion):
    head = fusion.model.bbox_head
    head.train_cfg.grid_size, head.bbox_coder.voxel_size, head.test_cfg.pc_range = [1024, 1024, 40], [0.1, 0.1], [-51.2, -51.2]
    (problem,) = problems(model_rules.check_head_grid, fusion)
    assert problem.message.startswith('3 settings') and 'model.bbox_head.train_cfg.grid_size=[1024, 1024, 40]' in problem.message
    new = mended(model_rules.check_head_grid, fusion).model.bbox_head
    assert (new.train_cfg.grid_size, new.bbox_coder.voxel_size, new.test_cfg.pc_range) == ([1440, 1440, 40], [0.075, 0.075], [-54.0, -54.0])


def test_the_out_size_factor_follows_from_the_strides(fusion):
    fusion.model.bbox_head.train_cfg.out_size_factor = 4
    (problem,) = problems(map_sizes.check_out_size_factor, fusion)
    assert 'one cell for 8 voxels' in problem.message
    assert mended(map_sizes.check_out_size_factor, fusion).model.bbox_head.train_cfg.out_size_factor == 8


def test_the_camera_map_gets_the_lidar_maps_cells(fusion):
    fusion.model.view_transform.xbound = [-51.2, 51.2, 0.4]
    (problem,) = problems(map_sizes.check_view_grid, fusion)
    assert 'lidar map of 180 cells over 108 m' in problem.message
    assert mended(map_sizes.check_view_grid, fusion).model.view_transform.xbound == [-54.0, 54.0, 0.3]


def test_images_are_cut_to_what_the_view_transform_counts_with(fusion):
    for step in fusion.val_dataloader.dataset.pipeline:
        if step.type == 'ImageAug3D':
            step.final_dim = [256, 700]
    (problem,) = problems(model_rules.check_image_size, fusion)
    assert 'val [256, 700]' in problem.message
    mended(model_rules.check_image_size, fusion)


def test_a_filter_of_another_range_is_named(fusion):
    step = next(step for step in fusion.train_dataloader.dataset.dataset.pipeline if step.type == 'ObjectRangeFilter')
    step.point_cloud_range = [-60.0, -60.0, -5.0, 60.0, 60.0, 3.0]
    assert 'ObjectRangeFilter of the train pipeline' in problems(model_rules.check_range_filters, fusion)[0].message


@pytest.mark.parametrize('search', [dict(find_unused_parameters=True), dict(model_wrapper_cfg=dict(find_unused_parameters=True))])
def test_checkpointing_does_not_go_with_a_search_for_unused_parameters(fusion, search):
    fusion.model.img_backbone.with_cp = True
    assert not problems(model_rules.check_checkpointing, fusion)
    fusion.merge_from_dict(search)
    assert 'model.img_backbone.with_cp=True' in problems(model_rules.check_checkpointing, fusion)[0].message
    assert not problems(model_rules.check_checkpointing, fusion, gpus=1), 'no DDP on one GPU'
    mended(model_rules.check_checkpointing, fusion)
    mended(model_rules.check_unused_search, fusion)


def test_our_own_checkpointing_goes_with_a_search_for_unused_parameters(fusion):
    fusion.merge_from_dict({'model.type': 'bevfusion_plugin.BEVFusion', 'model.with_cp': True, 'find_unused_parameters': True})
    assert not problems(model_rules.check_checkpointing, fusion)


@pytest.mark.parametrize(
    'names, lost',
    [
        ('pts_middle_encoder', 'pts_middle_encoder'),
        (['img_backbone', 'pts_backbone'], 'img_backbone'),
        (['pts_middle_encoder.encoder_layers.encoder_layer1'], 'pts_middle_encoder.encoder_layers.encoder_layer1'),
    ],
)
def test_mmengines_checkpointing_loses_gradients(fusion, names, lost):
    fusion.activation_checkpointing = names
    (problem,) = problems(model_rules.check_lost_gradients, fusion)
    assert f'parameters of {lost} get no gradient' in problem.message
    assert 'with_cp' not in problem.mend, 'the reference has no such argument'
    fusion.model.type = 'bevfusion_plugin.BEVFusion'
    new = mended(model_rules.check_lost_gradients, fusion)
    assert new.model.with_cp == [lost.split('.')[0]]
    assert new.activation_checkpointing == (['pts_backbone'] if len(names) == 2 else None)


def test_mmengines_checkpointing_of_what_gets_features_is_not_named(fusion):
    fusion.activation_checkpointing = ['pts_backbone', 'img_backbone.stages.1']
    assert not problems(model_rules.check_lost_gradients, fusion)


def test_a_tiny_eps_is_raised_in_half_precision_only(fusion):
    fusion.model.pts_middle_encoder.norm_cfg = dict(type='BN1d')
    assert not problems(model_rules.check_encoder_eps, fusion)
    fusion.optim_wrapper.type = 'AmpOptimWrapper'
    assert mended(model_rules.check_encoder_eps, fusion).model.pts_middle_encoder.norm_cfg.eps == 1e-3
    fusion.optim_wrapper.dtype = 'float32'
    assert not problems(model_rules.check_encoder_eps, fusion)


@pytest.mark.parametrize(
    'freeze',
    [
        {'model.img_backbone.frozen_stages': 1},
        {'model.freeze_lidar': True},
        {'optim_wrapper.paramwise_cfg.custom_keys': dict(img_backbone=dict(lr_mult=0))},
    ],
)
def test_frozen_parts_are_named(fusion, freeze):
    fusion.merge_from_dict(freeze)
    assert 'does not learn' in problems(model_rules.check_frozen, fusion)[0].message


@pytest.mark.parametrize(
    'wrapper, samples, words',
    [
        ('OptimWrapper', 4, 'more than 32 GB'),
        ('AmpOptimWrapper', 4, '32 GB'),
        ('AmpOptimWrapper', 3, None),
        ('OptimWrapper', 1, None),
        ('OptimWrapper', 2, '32 GB'),
    ],
)
def test_memory_is_what_was_reported(fusion, monkeypatch, wrapper, samples, words):
    monkeypatch.setattr('torch.cuda.is_available', lambda: False)
    fusion.optim_wrapper.type, fusion.train_dataloader.batch_size = wrapper, samples
    found = problems(model_rules.check_memory, fusion)
    assert [words in problem.message and problem.severity == 'info' for problem in found] == [True] * (words is not None)


def test_memory_is_compared_with_the_gpu_where_there_is_one(fusion, monkeypatch):
    monkeypatch.setattr('torch.cuda.is_available', lambda: True)
    monkeypatch.setattr('torch.cuda.device_count', lambda: 1)
    for gigabytes, count in ((11, 1), (23.6, 0)):
        monkeypatch.setattr('torch.cuda.get_device_properties', lambda index: type('P', (), dict(total_memory=gigabytes * 2**30)))
        fusion.optim_wrapper.type, fusion.train_dataloader.batch_size = 'AmpOptimWrapper', 3
        found = problems(model_rules.check_memory, fusion)
        assert len(found) == count and all(problem.severity == 'warning' and '11 GB' in problem.message for problem in found)


def test_models_of_other_kinds_are_left_alone():
    cfg = Config(dict(model=dict(type='FasterRCNN', backbone=dict(type='ResNet', frozen_stages=1), train_cfg=dict(rpn=dict()))))
    assert not [problem for check in CHECKS for problem in problems(check, cfg)]
