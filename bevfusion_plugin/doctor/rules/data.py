"""Rules about what is loaded, how it is augmented, and in which order samples are drawn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bevfusion_plugin.doctor.case import Case
from bevfusion_plugin.doctor.finding import Problem, rule
from bevfusion_plugin.doctor.missing import will_validate
from bevfusion_plugin.doctor.reading.classes import NUSCENES, class_list, trained_classes
from bevfusion_plugin.doctor.reading.config import (
    dataset_wrappers,
    entries,
    innermost_dataset,
    innermost_datasets,
    is_ours,
    mapping,
    number,
    parts,
    short_name,
)
from bevfusion_plugin.doctor.reading.model import is_bevfusion, lifts_images, sees_lidar
from bevfusion_plugin.doctor.reading.nuscenes import is_nuscenes, is_nuscenes_trainval
from bevfusion_plugin.doctor.reading.pipelines import PASTE, SPLITS, Pipeline, pipeline, pipelines, sweeps

REFERENCE_SWEEPS = 9
STORED_SWEEPS = 10  # a frame's sweeps in the info files: whoever loads as many draws none
RECORDING = dict(GlobalRotScaleTrans='bevfusion_plugin.BEVFusionGlobalRotScaleTrans', RandomFlip3D='bevfusion_plugin.BEVFusionRandomFlip3D')
KEPT_ARGUMENTS = ('type', 'rot_range', 'scale_ratio_range', 'translation_std', 'shift_height')
TRAIN_MATRICES = ('lidar2img', 'cam2img', 'cam2lidar', 'img_aug_matrix', 'lidar_aug_matrix')


@rule('sweeps-differ', 'error', 'https://github.com/mit-han-lab/bevfusion/issues/463')
def check_sweeps_agree(case: Case) -> Iterator[Problem]:
    """Training and validation on different numbers of lidar sweeps."""
    numbers = {split: sweeps(case.cfg, split) for split in SPLITS}
    known = {split: found for split, found in numbers.items() if found is not None}
    if 'train' not in known or len(set(known.values())) < 2:
        return
    most = max(known.values())
    loader = next(
        step for each in pipelines(case.cfg) for step in each.named('LoadPointsFromMultiSweeps') if step.get('sweeps_num', 10) == most
    )
    changes = {}
    for split, found in known.items():
        steps = pipeline(case.cfg, split)
        if steps is not None and found != most:
            changes.update(_with_sweeps(steps, loader))
    listed = ', '.join(f'{split} {found}' for split, found in known.items())
    yield Problem(
        f'the pipelines load different numbers of sweeps: {listed}; velocities are learned from one density of points '
        'and asked for at another',
        f'load {most} everywhere',
        changes,
    )


def _with_sweeps(found: Pipeline, loader: dict[str, Any]) -> dict[str, list]:
    """``found`` with as many sweeps as ``loader`` has, its own loader kept where there is one."""
    number = loader.get('sweeps_num', 10)
    if found.named('LoadPointsFromMultiSweeps'):
        return found.rewritten(lambda step: dict(step, sweeps_num=number) if short_name(step) == 'LoadPointsFromMultiSweeps' else step)
    steps = []
    for step in found.steps:
        steps.append(step)
        if isinstance(step, dict) and short_name(step) == 'LoadPointsFromFile':
            steps.append(dict(loader, test_mode=found.split != 'train'))
    return {found.key: steps}


@rule('sweeps-unusual', 'warning', 'https://github.com/mit-han-lab/bevfusion/issues/590')
def check_sweeps_number(case: Case) -> Iterator[Problem]:
    """BEVFusion on the whole nuScenes with other than nine sweeps."""
    number = sweeps(case.cfg, 'train')
    if is_bevfusion(case.cfg) and is_nuscenes_trainval(innermost_dataset(case.cfg)) and number not in (None, REFERENCE_SWEEPS):
        yield Problem(
            f'training loads {number} sweeps; the published results are with {REFERENCE_SWEEPS}',
            f'set sweeps_num={REFERENCE_SWEEPS} in all pipelines',
        )


@rule('random-test-sweeps', 'warning', 'mmdet3d/datasets/transforms/loading.py, LoadPointsFromMultiSweeps.transform')
def check_test_sweeps(case: Case) -> Iterator[Problem]:
    """Validation that draws sweeps at random."""
    drawing = [each for each in pipelines(case.cfg) if each.split != 'train' and any(map(_draws, each.named('LoadPointsFromMultiSweeps')))]
    if drawing:
        changes = {}
        for each in drawing:
            changes.update(
                each.rewritten(lambda step: dict(step, test_mode=True) if short_name(step) == 'LoadPointsFromMultiSweeps' else step)
            )
        splits = ', '.join(each.split for each in drawing)
        yield Problem(
            f'LoadPointsFromMultiSweeps has no test_mode=True in the pipeline of {splits}'
            ': where a frame has more sweeps than are loaded it draws them at random, and two tests give two scores',
            'set test_mode=True there',
            changes,
        )


def _draws(step: dict[str, Any]) -> bool:
    return step.get('test_mode') is not True and (number(step.get('sweeps_num', STORED_SWEEPS)) or 0) < STORED_SWEEPS


@rule('lidar-aug-matrix-missing', 'error', 'https://github.com/open-mmlab/mmdetection3d/pull/2330')
def check_recorded_augmentation(case: Case) -> Iterator[Problem]:
    """Lidar augmentation that the view transform is not told of."""
    found = pipeline(case.cfg, 'train')
    if found is None or not lifts_images(case.cfg):
        return
    silent = [step for step in found.named(*RECORDING) if not is_ours(step)]
    if silent:
        names = ' and '.join(dict.fromkeys(short_name(step) for step in silent))
        yield Problem(
            f'{names} of the training pipeline move the points and do not record it in lidar_aug_matrix, so image '
            'features land where the points were before',
            'use ' + ' and '.join(RECORDING[short_name(step)] for step in silent),
            found.rewritten(_recording),
        )


def _recording(step: dict[str, Any]) -> dict[str, Any]:
    name = RECORDING.get(short_name(step))
    if name is None or is_ours(step):
        return step
    if short_name(step) == 'RandomFlip3D':
        return dict(type=name)
    return {key: value for key, value in dict(step, type=name).items() if key in KEPT_ARGUMENTS}


@rule('matrices-not-packed', 'error', 'https://github.com/open-mmlab/mmdetection3d/blob/main/projects/BEVFusion/bevfusion/bevfusion.py')
def check_packed_matrices(case: Case) -> Iterator[Problem]:
    """Matrices that the model needs and Pack3DDetInputs leaves behind; mmdet3d's BEVFusion takes identities for them."""
    found = pipeline(case.cfg, 'train')
    if found is None or not lifts_images(case.cfg):
        return
    for step in found.named('Pack3DDetInputs')[:1]:
        packed = list(step['meta_keys']) if isinstance(step.get('meta_keys'), (list, tuple)) else []
        missing = [key for key in TRAIN_MATRICES if key not in packed]
        if missing:
            changes = found.rewritten(
                lambda each: dict(each, meta_keys=packed + missing) if short_name(each) == 'Pack3DDetInputs' else each
            )
            yield Problem(
                f'meta_keys of Pack3DDetInputs in the training pipeline lack {", ".join(missing)}; the view transform '
                'has no place to put image features without them',
                f'add {", ".join(missing)} to meta_keys',
                changes,
            )


@rule('radar-inputs', 'error', 'https://github.com/mit-han-lab/bevfusion/issues/458')
def check_radar(case: Case) -> Iterator[Problem]:
    """Leftovers of BEVFusion-R in a detector of lidar and cameras."""
    if not (is_bevfusion(case.cfg) or lifts_images(case.cfg)) or mapping(case.cfg.get('model')).get('radar_encoder'):
        return
    changes: dict[str, Any] = {}
    found = []
    for name in ('add_depth_features', 'height_expand'):
        if mapping(mapping(case.cfg.get('model')).get('view_transform')).get(name):
            found.append(f'model.view_transform.{name}')
            changes[f'model.view_transform.{name}'] = False
    for each in pipelines(case.cfg):
        if any('Radar' in short_name(step) for step in each.all_steps):
            found.append(each.key)
            changes.update(each.rewritten(lambda step: None if 'Radar' in short_name(step) else step))
        modality = f'{each.key.removesuffix(".pipeline")}.modality.use_radar'
        if mapping(innermost_dataset(case.cfg, each.split).get('modality')).get('use_radar'):
            found.append(modality)
            changes[modality] = False
    if found:
        yield Problem(
            f'{", ".join(found)} belong to the radar variant: the weights of lidar and cameras fail with them or lose accuracy',
            'switch them off',
            changes,
        )


@rule(
    'class-balance-missing',
    'warning',
    'https://github.com/open-mmlab/mmdetection3d/blob/main/projects/BEVFusion/configs/'
    'bevfusion_voxel0075_second_secfpn_8xb4-cyclic-20e_nus-3d.py',
)
def check_class_balance(case: Case) -> Iterator[Problem]:
    """BEVFusion on nuScenes without class-balanced sampling."""
    wrappers = {short_name(wrapper) for wrapper in dataset_wrappers(case.cfg)}
    if is_bevfusion(case.cfg) and is_nuscenes(innermost_dataset(case.cfg)) and 'CBGSDataset' not in wrappers:
        yield Problem(
            'the training data are not class-balanced (CBGSDataset); the published results are with about 123,580 '
            'samples an epoch where nuScenes has 28,130',
            "wrap the data set: dict(type='bevfusion_plugin.CBGSDataset', dataset=...)",
        )


@rule('no-workers', 'warning', 'https://github.com/dvlab-research/FocalsConv/issues/29')
def check_workers(case: Case) -> Iterator[Problem]:
    """Loading in the training process itself."""
    loader = mapping(case.cfg.get('train_dataloader'))
    if loader and loader.get('num_workers', 0) == 0 and sees_lidar(case.cfg):
        yield Problem('train_dataloader.num_workers=0: the GPU waits while each sample is loaded', 'set it to 4 or more a GPU')


@rule('num-classes', 'error', 'https://github.com/open-mmlab/mmdetection3d/blob/v1.4.0/mmdet3d/models/utils/gaussian.py')
def check_number_of_classes(case: Case) -> Iterator[Problem]:
    """A head for another number of classes than the data have, or with them in another order."""
    classes = trained_classes(innermost_dataset(case.cfg))
    if classes is None:
        return
    for path, part in parts(case.cfg.get('model')):
        if not path.rstrip('.0123456789').endswith('bbox_head'):
            continue
        found = part.get('num_classes')
        if isinstance(found, int) and not isinstance(found, bool) and found != len(classes):
            yield Problem(
                f'{path}.num_classes is {found}, and the data set has {len(classes)} classes ({", ".join(classes)}): a '
                'label beyond the head\'s is an index error, on a GPU one without a cause',
                f'set {path}.num_classes={len(classes)}, or name the classes to train in metainfo.classes',
                {f'{path}.num_classes': len(classes)},
            )
        named = [name for task in entries(part.get('tasks')) for name in class_list(task.get('class_names')) or []]
        if named and named != classes:
            yield Problem(
                f'{path}.tasks name the classes {", ".join(named)}, and the data set has {", ".join(classes)}: labels '
                'count through the tasks in order',
                'name the same classes in the same order',
            )


@rule('class-order', 'error', 'https://github.com/open-mmlab/mmdetection3d/blob/v1.4.0/mmdet3d/datasets/transforms/dbsampler.py')
def check_class_order(case: Case) -> Iterator[Problem]:
    """Places that list the classes otherwise than the training data: a label is a position in the list."""
    classes = trained_classes(innermost_dataset(case.cfg))
    if classes is None:
        return
    for split in SPLITS:
        datasets = innermost_datasets(case.cfg, split)
        place = '.'.join([f'{split}_dataloader', *['dataset'] * (1 + len(dataset_wrappers(case.cfg, split))), 'metainfo.classes'])
        for dataset in datasets:
            other = trained_classes(dataset)
            if other not in (None, classes):
                yield Problem(
                    f'a data set of {split}_dataloader has the classes {", ".join(other)}, and that of the training '
                    f'{", ".join(classes)}: the same label means two things',
                    'give both the same metainfo.classes',
                    {place: classes} if len(datasets) == 1 else {},
                )
    found = pipeline(case.cfg, 'train')
    if found is None:
        return
    for step in found.named('ObjectNameFilter', PASTE):
        listed = class_list(step.get('classes')) or class_list(mapping(step.get('db_sampler')).get('classes'))
        if listed not in (None, classes):
            yield Problem(
                f'{short_name(step)} of the training pipeline lists the classes {", ".join(listed)}, and the data set '
                f'{", ".join(classes)}: its labels are positions in that list',
                'give it the classes of the data set',
                found.rewritten(lambda each: _with_classes(each, classes)),
            )
            return


def _with_classes(step: dict[str, Any], classes: list[str]) -> dict[str, Any]:
    if short_name(step) == 'ObjectNameFilter':
        return dict(step, classes=classes)
    return dict(step, db_sampler=dict(step['db_sampler'], classes=classes)) if short_name(step) == PASTE else step


@rule(
    'metric-cannot-score',
    'error',
    'https://github.com/nutonomy/nuscenes-devkit/blob/1.2.0/python-sdk/nuscenes/eval/detection/constants.py',
    is_need=True,
)
def check_metrics(case: Case) -> Iterator[Problem]:
    """A metric that would refuse what it is given, after the first epoch and a whole validation."""
    starting = dict(train=['val'], test=['test']).get(case.starting or '', ['val', 'test'])
    for split in [split for split in starting if split == 'test' or will_validate(case.cfg)]:
        evaluators, dataset = entries(case.cfg.get(f'{split}_evaluator')), innermost_dataset(case.cfg, split)
        names = [short_name(evaluator) for evaluator in evaluators]
        unknown = [name for name in trained_classes(dataset) or [] if name not in NUSCENES]
        if 'NuScenesMetric' in names and unknown:
            yield Problem(
                f"{split}_evaluator: NuScenesMetric scores nuScenes' classes, and the data set has {', '.join(unknown)}",
                'score classes of your own with bevfusion_plugin.CenterDistanceMetric',
                {f'{split}_evaluator': dict(type='bevfusion_plugin.CenterDistanceMetric')} if len(names) == 1 else {},
            )
        if 'CenterDistanceMetric' in names and dataset.get('test_mode') is True and dataset.get('load_eval_anns') is False:
            yield Problem(
                f'{split}_evaluator: CenterDistanceMetric compares with the annotations of the samples, and load_eval_anns=False of the '
                f'data set of {split}_dataloader leaves them out',
                'leave load_eval_anns out',
            )
