import pytest
from reference_recipes import reference_fusion, reference_lidar

from bevfusion_plugin.doctor.case import Case
from bevfusion_plugin.doctor.mend import changed
from bevfusion_plugin.doctor.reading.pipelines import pipeline
from bevfusion_plugin.doctor.rules import data as data_rules
from bevfusion_plugin.doctor.rules import processes


@pytest.fixture
def fusion():
    return reference_fusion()


@pytest.fixture
def lidar():
    return reference_lidar()


def problems(check, cfg):
    return list(check(Case(cfg)))


def mended(check, cfg):
    """The config after the changes of the rule's only problem; the rule must be content with it."""
    (found,) = problems(check, cfg)
    new = changed(cfg, found.changes)
    assert not problems(check, new)
    return new


def steps(cfg, split, name):
    return pipeline(cfg, split).named(name)


def set_steps(cfg, split, name, **values):
    for step in steps(cfg, split, name):
        step.update(values)


def test_equal_sweeps_are_fine(fusion, lidar):
    assert not problems(data_rules.check_sweeps_agree, fusion) and not problems(data_rules.check_sweeps_agree, lidar)


def test_fewer_training_sweeps_are_raised_to_those_of_the_test(fusion):
    set_steps(fusion, 'train', 'LoadPointsFromMultiSweeps', sweeps_num=0)  # mit-han-lab/bevfusion#463
    (problem,) = problems(data_rules.check_sweeps_agree, fusion)
    assert 'train 0, val 9, test 9' in problem.message
    new = mended(data_rules.check_sweeps_agree, fusion)
    assert steps(new, 'train', 'LoadPointsFromMultiSweeps')[0]['sweeps_num'] == 9


def test_a_pipeline_without_sweeps_gets_the_loader_behind_the_points(lidar):
    found = pipeline(lidar, 'val')
    lidar.val_dataloader.dataset.pipeline = [step for step in found.steps if step['type'] != 'LoadPointsFromMultiSweeps']
    new = mended(data_rules.check_sweeps_agree, lidar)
    names = [step['type'] for step in pipeline(new, 'val').steps]
    assert names[:2] == ['LoadPointsFromFile', 'LoadPointsFromMultiSweeps']
    assert steps(new, 'val', 'LoadPointsFromMultiSweeps')[0]['test_mode'] is True


def test_unusual_sweeps_are_a_warning_on_the_whole_nuscenes_only(fusion):
    for split in ('train', 'val', 'test'):
        set_steps(fusion, split, 'LoadPointsFromMultiSweeps', sweeps_num=2)
    assert 'loads 2 sweeps' in problems(data_rules.check_sweeps_number, fusion)[0].message
    fusion.train_dataloader.dataset.dataset.metainfo.version = 'v1.0-mini'
    assert not problems(data_rules.check_sweeps_number, fusion)


def test_test_sweeps_are_made_the_nearest(fusion):
    (problem,) = problems(data_rules.check_test_sweeps, fusion)
    assert 'val, test' in problem.message
    new = mended(data_rules.check_test_sweeps, fusion)
    assert steps(new, 'val', 'LoadPointsFromMultiSweeps')[0]['test_mode'] is True
    assert 'test_mode' not in steps(new, 'train', 'LoadPointsFromMultiSweeps')[0], 'training keeps drawing'


def test_all_stored_sweeps_need_no_test_mode(fusion):
    for split in ('val', 'test'):
        set_steps(fusion, split, 'LoadPointsFromMultiSweeps', sweeps_num=10)
    assert not problems(data_rules.check_test_sweeps, fusion)


def test_stock_augmentation_is_replaced_by_one_that_records(fusion):
    set_steps(fusion, 'train', 'BEVFusionGlobalRotScaleTrans', type='GlobalRotScaleTrans')
    set_steps(fusion, 'train', 'BEVFusionRandomFlip3D', type='mmdet3d.RandomFlip3D', flip_ratio_bev_horizontal=0.5, sync_2d=False)
    (problem,) = problems(data_rules.check_recorded_augmentation, fusion)
    assert 'GlobalRotScaleTrans and RandomFlip3D' in problem.message
    new = mended(data_rules.check_recorded_augmentation, fusion)
    (turn,) = steps(new, 'train', 'BEVFusionGlobalRotScaleTrans')
    assert turn['type'].startswith('bevfusion_plugin.') and turn['rot_range'] == [-0.785, 0.785]
    assert steps(new, 'train', 'BEVFusionRandomFlip3D') == [dict(type='bevfusion_plugin.BEVFusionRandomFlip3D')]


def test_stock_augmentation_is_fine_without_cameras(lidar):
    assert not problems(data_rules.check_recorded_augmentation, lidar)


def test_missing_matrices_are_added_to_the_meta_keys(fusion):
    (pack,) = steps(fusion, 'train', 'Pack3DDetInputs')
    pack['meta_keys'] = [key for key in pack['meta_keys'] if key not in ('lidar_aug_matrix', 'cam2lidar')]
    (problem,) = problems(data_rules.check_packed_matrices, fusion)
    assert 'cam2lidar, lidar_aug_matrix' in problem.message
    new = mended(data_rules.check_packed_matrices, fusion)
    assert {'lidar_aug_matrix', 'cam2lidar', 'sample_idx'} <= set(steps(new, 'train', 'Pack3DDetInputs')[0]['meta_keys'])


def test_meta_keys_left_to_the_default_lack_all_matrices(fusion):
    del steps(fusion, 'train', 'Pack3DDetInputs')[0]['meta_keys']
    assert 'lidar2img, cam2img' in problems(data_rules.check_packed_matrices, fusion)[0].message
    mended(data_rules.check_packed_matrices, fusion)


def test_leftovers_of_radar_are_switched_off(fusion):
    fusion.model.view_transform.update(add_depth_features=True, height_expand=True)
    dataset = fusion.train_dataloader.dataset.dataset
    dataset.modality = dict(use_lidar=True, use_camera=True, use_radar=True)
    dataset.pipeline.insert(2, dict(type='LoadRadarPointsMultiSweeps'))
    (problem,) = problems(data_rules.check_radar, fusion)
    assert 'add_depth_features' in problem.message and 'use_radar' in problem.message
    new = mended(data_rules.check_radar, fusion)
    assert new.model.view_transform.height_expand is False
    assert new.train_dataloader.dataset.dataset.modality == dict(use_lidar=True, use_camera=True, use_radar=False)


def test_class_balance_is_missed_on_nuscenes_only(lidar):
    lidar.train_dataloader.dataset = lidar.train_dataloader.dataset.dataset
    assert 'CBGSDataset' in problems(data_rules.check_class_balance, lidar)[0].message
    lidar.train_dataloader.dataset.type = 'KittiDataset'
    assert not problems(data_rules.check_class_balance, lidar)


def test_ranks_draw_from_one_list(lidar):
    lidar.randomness = dict(seed=0, diff_rank_seed=True)
    assert mended(processes.check_rank_seeds, lidar).randomness == dict(seed=0, diff_rank_seed=False)


@pytest.mark.parametrize('loader, count', [(dict(num_workers=0), 1), (dict(), 1), (dict(num_workers=4), 0)])
def test_loading_without_workers_is_noticed(lidar, loader, count):
    del lidar.train_dataloader['num_workers']
    lidar.train_dataloader.update(loader)
    assert len(problems(data_rules.check_workers, lidar)) == count


@pytest.mark.parametrize('number', [3, 11])
def test_a_head_for_another_number_of_classes(fusion, number):
    assert not problems(data_rules.check_number_of_classes, fusion)
    fusion.model.bbox_head.num_classes = number
    (found,) = problems(data_rules.check_number_of_classes, fusion)
    assert f'model.bbox_head.num_classes is {number}, and the data set has 10 classes (car, truck, ' in found.message
    assert mended(data_rules.check_number_of_classes, fusion).model.bbox_head.num_classes == 10


def test_the_classes_of_the_data_set_count(fusion):
    fusion.model.bbox_head.num_classes = 10
    fusion.train_dataloader.dataset.dataset.metainfo = dict(classes=['car', 'bus'])
    assert 'has 2 classes (car, bus)' in problems(data_rules.check_number_of_classes, fusion)[0].message
    fusion.train_dataloader.dataset.dataset = dict(type='SomeDataset')
    assert not problems(data_rules.check_number_of_classes, fusion)


def test_tasks_in_another_order(fusion):
    fusion.train_dataloader.dataset.dataset.metainfo = dict(classes=['car', 'bus'])
    fusion.model = dict(
        type='CenterPoint',
        pts_bbox_head=dict(type='CenterHead', tasks=[dict(num_class=1, class_names=['bus']), dict(num_class=1, class_names=['car'])]),
    )
    (found,) = problems(data_rules.check_number_of_classes, fusion)
    assert 'model.pts_bbox_head.tasks name the classes bus, car, and the data set has car, bus' in found.message


def test_a_validation_with_its_classes_in_another_order(fusion):
    assert not problems(data_rules.check_class_order, fusion)
    classes = list(fusion.train_dataloader.dataset.dataset.metainfo.classes)
    fusion.val_dataloader.dataset.metainfo.classes = classes[::-1]
    fusion.test_dataloader.dataset.metainfo.classes = classes
    (found,) = problems(data_rules.check_class_order, fusion)
    assert 'a data set of val_dataloader has the classes' in found.message
    assert list(mended(data_rules.check_class_order, fusion).val_dataloader.dataset.metainfo.classes) == classes


@pytest.mark.parametrize('name', ['ObjectNameFilter', 'ObjectSample'])
def test_a_transform_with_the_classes_in_another_order(lidar, name):
    assert not problems(data_rules.check_class_order, lidar)
    classes = list(lidar.train_dataloader.dataset.dataset.metainfo.classes)
    lidar.train_dataloader.dataset.dataset.pipeline.append(dict(type='ObjectNameFilter', classes=classes))
    assert not problems(data_rules.check_class_order, lidar)
    for step in steps(lidar, 'train', name):
        (step if name == 'ObjectNameFilter' else step['db_sampler'])['classes'] = ['truck', 'car', *classes[2:]]
    new = mended(data_rules.check_class_order, lidar)
    assert all(list(step.get('classes') or step['db_sampler']['classes']) == classes for step in steps(new, 'train', name))


def test_a_metric_that_does_not_know_the_classes_gives_way_to_one_that_takes_any(lidar):
    for split in ('val', 'test'):
        lidar[f'{split}_dataloader'].dataset.metainfo = dict(classes=['car', 'tram'])
        lidar[f'{split}_evaluator'] = dict(type='NuScenesMetric')
    found = problems(data_rules.check_metrics, lidar)
    assert len(found) == 2 and "NuScenesMetric scores nuScenes' classes, and the data set has tram" in found[0].message
    for problem in found:
        lidar = changed(lidar, problem.changes)
    assert not problems(data_rules.check_metrics, lidar)


def test_a_metric_without_annotations_is_named(lidar):
    lidar.val_evaluator = [dict(type='bevfusion_plugin.CenterDistanceMetric')]
    assert not problems(data_rules.check_metrics, lidar)
    lidar.val_dataloader.dataset.update(test_mode=True, load_eval_anns=False)
    (problem,) = problems(data_rules.check_metrics, lidar)
    assert 'load_eval_anns=False' in problem.message and not problem.changes
