"""Rules about the model: the grids it describes in several places, its precision, what is frozen, what memory it takes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bevfusion_plugin.doctor.case import Case
from bevfusion_plugin.doctor.finding import MMENGINE, Problem, rule
from bevfusion_plugin.doctor.memory.needed import memory_function, smallest_gpu
from bevfusion_plugin.doctor.reading.config import (
    is_ours,
    mapping,
    number,
    optim_wrapper,
    parts,
    precision_of,
    samples_per_gpu,
    short_name,
    train_cfg,
)
from bevfusion_plugin.doctor.reading.model import is_bevfusion, lifts_images
from bevfusion_plugin.doctor.reading.pipelines import pipelines
from bevfusion_plugin.doctor.reading.voxel_grid import VoxelGrid, expected_shape, fits, numbers, sparse_encoder, voxel_grid
from bevfusion_plugin.plan.judgement import MEMORY_SHARE

MIN_BN_EPS = 6e-5  # below it 1 / sqrt(eps) leaves the range of float16 once it is squared in the backward pass
SAFE_BN_EPS = 1e-3
HEAD_KEYS = {'grid_size': 2, 'voxel_size': 2, 'point_cloud_range': 6, 'pc_range': 2}  # key -> numbers that have to agree
SPARSE_ENCODERS = ('pts_middle_encoder', 'middle_encoder')
FED_WITH_DATA = ('backbone', 'img_backbone', 'pts_voxel_encoder', 'voxel_encoder')  # no input of theirs has a gradient
WITH_CP = ('img_backbone', 'pts_middle_encoder')  # of these, what model.with_cp takes
# GB of the smallest GPU that trained the full-size model with so many samples, as reported.
REPORTED_MEMORY = {'half': {1: 12, 2: 24, 3: 24, 4: 32}, 'float32': {1: 24, 2: 32}}


@rule('checkpointing-with-unused-search', 'error', 'https://github.com/HuangJunJie2017/BEVDet/issues/32')
def check_checkpointing(case: Case) -> Iterator[Problem]:
    """Re-entrant activation checkpointing under a DDP that looks for unused parameters."""
    model = case.cfg.get('model')
    places = [path for path, part in parts(model) if part.get('with_cp') is True and not _is_our_detector(part)]
    searching = _unused_search(case)
    if places and searching and case.world_size > 1:
        yield Problem(
            f'{places[0]}.with_cp=True and {searching[0]}=True: DDP stops with "parameter marked ready twice"',
            f'set {searching[0]} to False',
            {key: False for key in searching},
        )


@rule('checkpointing-without-gradients', 'error', f'{MMENGINE}/runner/activation_checkpointing.py')
def check_lost_gradients(case: Case) -> Iterator[Problem]:
    """MMEngine's activation checkpointing, which is re-entrant, of what sees the sensors' data first or takes sparse tensors."""
    names = case.cfg.get('activation_checkpointing') or []
    names = [names] if isinstance(names, str) else [str(name) for name in names]
    lost = [name for name in names if name in FED_WITH_DATA or name.split('.')[0] in SPARSE_ENCODERS]
    if not lost:
        return
    rest = [name for name in names if name not in lost]
    changes: dict[str, Any] = dict(activation_checkpointing=rest or None)
    mend = f'take {"it" if len(lost) == 1 else "them"} out'
    if _is_our_detector(case.cfg.get('model')):
        able = [name for name in dict.fromkeys(name.split('.')[0] for name in lost) if name in WITH_CP]
        if able:
            changes['model.with_cp'] = able
            mend += f' and set model.with_cp={able} (True: all that is worth it), which keeps all gradients'
    yield Problem(
        f'activation_checkpointing={names}: parameters of {", ".join(lost)} get no gradient and are never trained (the '
        'checkpoint is re-entrant and sees no input with a gradient; a warning is all), and its BatchNorm statistics move '
        'twice a step',
        mend,
        changes,
    )


@rule('unused-parameter-search', 'warning', 'https://pytorch.org/docs/stable/generated/torch.nn.parallel.DistributedDataParallel.html')
def check_unused_search(case: Case) -> Iterator[Problem]:
    """A search for unused parameters in a model that uses all of its."""
    searching = _unused_search(case)
    if searching and is_bevfusion(case.cfg):
        yield Problem(
            f'{searching[0]}=True: BEVFusion uses all its parameters, and DDP walks the graph for nothing in every step',
            f'set {searching[0]} to False',
            {key: False for key in searching},
        )


def _is_our_detector(model: Any) -> bool:
    """Whether its ``with_cp`` is this package's, which is not re-entrant."""
    return is_ours(model, 'BEVFusion')


def _unused_search(case: Case) -> list[str]:
    found = ['find_unused_parameters'] if case.cfg.get('find_unused_parameters') is True else []
    wrapper = mapping(case.cfg.get('model_wrapper_cfg'))
    return found + ['model_wrapper_cfg.find_unused_parameters'] * (wrapper.get('find_unused_parameters') is True)


@rule('sparse-encoder-bn-eps', 'warning', 'https://github.com/traveller59/spconv/issues/513')
def check_encoder_eps(case: Case) -> Iterator[Problem]:
    """BatchNorm of sparse convolutions with a tiny eps in half precision."""
    found = sparse_encoder(case.cfg)
    if found is None or precision_of(case.cfg) == 'float32':
        return
    place, encoder = found
    eps = number(mapping(encoder.get('norm_cfg', dict(eps=SAFE_BN_EPS))).get('eps', 1e-5))
    if eps is not None and eps < MIN_BN_EPS:
        yield Problem(
            f'{place}.norm_cfg.eps={eps:g}: in half precision sparse convolutions were seen to turn to NaN with eps below {MIN_BN_EPS:g}',
            f'set it to {SAFE_BN_EPS:g}',
            {f'{place}.norm_cfg.eps': SAFE_BN_EPS},
        )


@rule('sparse-shape-order', 'error', 'https://github.com/open-mmlab/mmdetection3d/tree/main/projects/BEVFusion')
def check_sparse_shape_order(case: Case) -> Iterator[Problem]:
    """The sparse grid with its axes the wrong way round."""
    for grid, place, encoder, shape in _misfits(case):
        if fits(shape[::-1], grid, encoder):
            order = 'x, y, z' if expected_shape(grid, encoder)[0] == grid.cells[0] else 'z, y, x'
            yield Problem(
                f'{place}.sparse_shape={list(shape)} has its axes reversed: {short_name(encoder)} takes ({order})',
                f'write {list(shape[::-1])}',
                {f'{place}.sparse_shape': list(shape[::-1])},
            )


@rule('sparse-shape-size', 'error', 'mmdet3d/models/middle_encoders/sparse_encoder.py')
def check_sparse_shape_size(case: Case) -> Iterator[Problem]:
    """A sparse grid that is not the voxelizer's."""
    for grid, place, encoder, shape in _misfits(case):
        if not fits(shape[::-1], grid, encoder):
            right = expected_shape(grid, encoder)
            yield Problem(
                f'{place}.sparse_shape={list(shape)}, but the voxelizer makes {grid.cells} cells (x, y, z)',
                f'write {right}',
                {f'{place}.sparse_shape': right},
            )


def _misfits(case: Case) -> Iterator[tuple[VoxelGrid, str, dict[str, Any], tuple[float, ...]]]:
    """The voxelizer's grid, place and config of the sparse encoder, and the shape that it states, where that does not hold the grid."""
    grid, found = voxel_grid(case.cfg), sparse_encoder(case.cfg)
    shape = numbers(found[1].get('sparse_shape'), 3) if found else None
    if grid is not None and found is not None and shape is not None and not fits(shape, grid, found[1]):
        yield grid, *found, shape


@rule('head-grid-differs', 'error', 'mmdet3d/models/dense_heads/centerpoint_head.py, get_targets_single')
def check_head_grid(case: Case) -> Iterator[Problem]:
    """A head that draws its targets on another grid than the voxelizer's."""
    grid = voxel_grid(case.cfg)
    changes = dict(_head_differences(case, grid)) if grid else {}
    if changes:
        shown = ', '.join(f'{key}={_at(case, key)} (should be {value})' for key, value in list(changes.items())[:3])
        yield Problem(
            f'{len(changes)} settings of the head are not those of the voxelizer: {shown}', 'give them the voxelizer\'s values', changes
        )


def _head_differences(case: Case, grid: VoxelGrid) -> Iterator[tuple[str, list]]:
    right = dict(grid_size=grid.cells, voxel_size=grid.voxel_size, point_cloud_range=grid.scene, pc_range=grid.scene)
    model = mapping(case.cfg.get('model'))
    if sparse_encoder(case.cfg) is None:
        return
    for name in ('bbox_head', 'pts_bbox_head', 'train_cfg', 'test_cfg'):
        for path, part in parts(model.get(name), f'model.{name}'):
            for key in HEAD_KEYS.keys() & part.keys():
                agreeing = HEAD_KEYS[key]
                value = part[key]
                if (
                    isinstance(value, (list, tuple))
                    and len(value) >= agreeing
                    and numbers(value, len(value))
                    and any(abs(a - b) > 1e-4 for a, b in zip(value[:agreeing], right[key]))
                ):
                    yield f'{path}.{key}', [*right[key][:agreeing], *value[agreeing:]]


def _at(case: Case, key: str) -> Any:
    value: Any = case.cfg
    for name in key.split('.'):
        value = value[int(name)] if isinstance(value, (list, tuple)) else value.get(name)
    return value


@rule('image-size-differs', 'error', 'https://github.com/open-mmlab/mmdetection3d/tree/main/projects/BEVFusion')
def check_image_size(case: Case) -> Iterator[Problem]:
    """Images cut to another size than the view transform counts with."""
    if not lifts_images(case.cfg):
        return
    size = numbers(mapping(case.cfg.model.view_transform).get('image_size'), 2)
    if size is None:
        return
    wrong: dict[str, tuple] = {}
    changes: dict[str, Any] = {}
    for each in pipelines(case.cfg):
        final = [numbers(step.get('final_dim'), 2) for step in each.named('ImageAug3D')]
        if any(dim and dim != size for dim in final):
            wrong[each.split] = next(dim for dim in final if dim and dim != size)
            changes.update(each.rewritten(lambda step: dict(step, final_dim=list(size)) if short_name(step) == 'ImageAug3D' else step))
    if wrong:
        shown = ', '.join(f'{split} {list(dim)}' for split, dim in wrong.items())
        yield Problem(
            f'ImageAug3D cuts images to other sizes ({shown}) than model.view_transform.image_size={list(size)}: the '
            'frustum points lie in the wrong places',
            'give both the same size (and feature_size its eighth)',
            changes,
        )


@rule('points-filter-differs', 'warning', 'mmdet3d/datasets/transforms/transforms_3d.py, ObjectRangeFilter')
def check_range_filters(case: Case) -> Iterator[Problem]:
    """Points or boxes cut to another range than the model sees."""
    grid = voxel_grid(case.cfg)
    if grid is None:
        return
    for each in pipelines(case.cfg):
        for step in each.named('PointsRangeFilter', 'ObjectRangeFilter'):
            kept = numbers(step.get('point_cloud_range'), 6)
            if kept is not None and any(abs(a - b) > 1e-4 for a, b in zip(kept, grid.scene)):
                yield Problem(
                    f'{short_name(step)} of the {each.split} pipeline keeps {list(kept)}, the model sees {list(grid.scene)}',
                    'give both the same point_cloud_range',
                )


@rule('frozen-parts', 'warning', 'https://github.com/mit-han-lab/bevfusion/issues/227')
def check_frozen(case: Case) -> Iterator[Problem]:
    """Branches that do not learn, where the authors train all."""
    if not is_bevfusion(case.cfg):
        return
    frozen = [
        f'{path}.frozen_stages={part["frozen_stages"]}'
        for path, part in parts(case.cfg.get('model'))
        if (number(part.get('frozen_stages')) or -1) >= 0
    ]
    frozen += [
        f'{path}.{key}=True'
        for path, part in parts(case.cfg.get('model'))
        for key, value in part.items()
        if str(key).startswith('freeze') and value is True
    ]
    keys = mapping(mapping(optim_wrapper(case.cfg).get('paramwise_cfg')).get('custom_keys'))
    frozen += [
        f'optim_wrapper.paramwise_cfg.custom_keys[{name!r}].lr_mult=0' for name, each in keys.items() if mapping(each).get('lr_mult') == 0
    ]
    if frozen:
        yield Problem(
            f'{", ".join(frozen)}: a part of the model does not learn; the authors advise to freeze nothing', 'train the whole model'
        )


@rule('gpu-memory', 'warning', 'https://github.com/open-mmlab/mmdetection3d/issues/2897')
def check_memory(case: Case) -> Iterator[Problem]:
    """More samples than fit into this machine's smallest GPU, as tools/plan.py and --samples-per-gpu auto have it: measured, else computed."""
    samples = samples_per_gpu(case.cfg)
    if not samples or not train_cfg(case.cfg):
        return
    if not is_ours(case.cfg.get('model'), 'BEVFusion'):
        yield from _check_reported_memory(case, samples)
        return
    has = smallest_gpu()
    if has is None or case.quick:
        return
    need = memory_function(case.cfg, case.world_size, has)(samples)
    if need > MEMORY_SHARE * has:
        yield Problem(
            f'{samples} samples a GPU need {need:.1f} GiB by tools/plan.py; {MEMORY_SHARE:.0%} of this GPU are {MEMORY_SHARE * has:.1f}',
            'start with tools/train.py --samples-per-gpu auto, which takes as many as fit and accumulates the rest, or look with '
            'tools/plan.py --gpu-memory',
        )


def _check_reported_memory(case: Case, samples: int) -> Iterator[Problem]:
    """The reference's model, which the memory model does not know: more samples than were reported to fit."""
    grid = voxel_grid(case.cfg)
    full_size = grid and lifts_images(case.cfg) and grid.cells[:2] == (1440, 1440)
    checkpoints = any(part.get('with_cp') for _, part in parts(case.cfg.get('model')))
    if not full_size or checkpoints:
        return
    precision = 'float32' if precision_of(case.cfg) == 'float32' else 'half'
    reported = REPORTED_MEMORY[precision]
    need = reported.get(samples, max(reported.values()) + 1)
    has = smallest_gpu()
    if need > (has + 1 if has else 24):  # a 24 GB GPU reports 23.6
        words = f'{need} GB' if samples in reported else f'more than {max(reported.values())} GB'
        yield Problem(
            f'{samples} samples a GPU in {precision} precision were reported to need a GPU of {words}'
            + (f'; this one has {has:.0f} GB' if has else ''),
            'take fewer samples and accumulate more, or tools/plan.py --gpu-memory for an estimate',
            severity='warning' if has else 'info',
        )
