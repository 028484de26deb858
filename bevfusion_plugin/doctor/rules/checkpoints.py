"""Rules about the weights a training starts from."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from torch import Tensor

from bevfusion_plugin.doctor.case import Case
from bevfusion_plugin.doctor.finding import Problem, rule
from bevfusion_plugin.doctor.reading.config import is_ours, mapping, short_name, train_cfg
from bevfusion_plugin.doctor.reading.model import is_bevfusion, lifts_images, sees_lidar
from bevfusion_plugin.doctor.reading.voxel_grid import sparse_encoder
from bevfusion_plugin.engine.checkpoints.matching import MIN_SHARE, unmatched_keys

OPTIONAL_TENSORS = re.compile(r'relative_position_index$|^norm\d|num_batches_tracked$')  # published Swin weights lack them
OBJECT_WEIGHTS = ('nuim', 'coco', 'nus', 'cascade', 'mask')  # in the name of weights trained on pictures with objects


@rule('no-lidar-checkpoint', 'warning', 'https://github.com/mit-han-lab/bevfusion/issues/207')
def check_lidar_checkpoint(case: Case) -> Iterator[Problem]:
    """The camera stage without the lidar stage's weights."""
    starts_empty = not (case.cfg.get('load_from') or case.resume_from)
    if lifts_images(case.cfg) and sees_lidar(case.cfg) and is_bevfusion(case.cfg) and train_cfg(case.cfg) and starts_empty:
        yield Problem(
            'load_from is empty: lidar and cameras would be trained together from scratch (62.7 instead of 68.5 mAP)',
            'set load_from to the checkpoint of the lidar stage (configs/bevfusion_lidar.py)',
        )


@rule('image-weights', 'warning', 'https://github.com/mit-han-lab/bevfusion/issues/340')
def check_image_weights(case: Case) -> Iterator[Problem]:
    """An image backbone that starts from random or from ImageNet weights."""
    if not (lifts_images(case.cfg) and is_bevfusion(case.cfg) and train_cfg(case.cfg)):
        return
    init = mapping(mapping(case.cfg.model.img_backbone).get('init_cfg'))
    name = Path(str(init.get('checkpoint'))).name.lower()
    if init.get('type') != 'Pretrained':
        yield Problem('model.img_backbone.init_cfg names no pretrained weights', 'use weights pretrained on nuImages (README, "Weights")')
    elif not any(word in name for word in OBJECT_WEIGHTS):
        yield Problem(
            f'model.img_backbone starts from {name}, which looks like ImageNet weights; nuImages weights gave about 1 NDS more',
            'use weights pretrained on nuImages (README, "Weights")',
        )


def read_state(path: str) -> tuple[Mapping[str, Tensor], Any]:
    """State dict of a checkpoint file and its metadata (None if absent). Nothing in the file is run while it is read."""
    checkpoint = torch.load(path, map_location='cpu', weights_only=True, mmap=True)
    state = checkpoint.get('state_dict', checkpoint.get('model', checkpoint))
    return {key: value for key, value in state.items() if isinstance(value, Tensor)}, getattr(state, '_metadata', None)


def start_file(cfg: Config) -> str | None:
    """``load_from`` if it is a file on this disk."""
    path = cfg.get('load_from')
    return path if isinstance(path, str) and Path(path).is_file() else None


@rule('checkpoint-mismatch', 'error', 'https://github.com/open-mmlab/mmdetection3d/issues/2746')
def check_start_fits(case: Case) -> Iterator[Problem]:
    """``load_from`` of another model: MMEngine loads what fits and goes on."""
    path = None if case.quick else start_file(case.cfg)
    if path is None:
        return
    loaded, _ = read_state(path)
    problems = unmatched_keys(loaded, case.model_state)
    share = 1 - len(problems) / max(len(loaded), 1)
    if share < MIN_SHARE:
        yield Problem(
            f'only {share:.0%} of the {len(loaded)} tensors in load_from ({path}) fit the model, {MIN_SHARE:.0%} '
            f'should; the first that do not: {"; ".join(problems[:3])}',
            'name a checkpoint of this model; convert one of another code base with tools/convert_checkpoint.py. '
            '--fix takes load_from out, so that nothing half-loads',
            dict(load_from=None),
        )


@rule('image-checkpoint-mismatch', 'error', 'https://github.com/mit-han-lab/bevfusion/issues/174')
def check_backbone_fits(case: Case) -> Iterator[Problem]:
    """Backbone weights of another network, or under other names: what fits is loaded, and the rest stays random."""
    for name, part in mapping(case.cfg.get('model')).items():
        init = mapping(mapping(part).get('init_cfg'))
        path = init.get('checkpoint')
        if case.quick or init.get('type') != 'Pretrained' or not isinstance(path, str) or not Path(path).is_file():
            continue
        loaded = as_backbone(part, read_state(path)[0])
        own = {key.removeprefix(f'{name}.'): value for key, value in case.model_state.items() if key.startswith(f'{name}.')}
        wanted = [key for key in own if not OPTIONAL_TENSORS.search(key)]
        absent = [
            key
            for key in wanted
            if key not in loaded or sorted(loaded[key].shape) != sorted(own[key].shape) and not key.endswith('relative_position_bias_table')
        ]  # interpolated to the other window
        share = 1 - len(absent) / max(len(wanted), 1)
        if share < MIN_SHARE:
            yield Problem(
                f'only {share:.0%} of the tensors of model.{name} are in {path} under the names it looks for, '
                f'{MIN_SHARE:.0%} should; the first that are not: {", ".join(absent[:3])}',
                f'name weights of this network in model.{name}.init_cfg.checkpoint (and check prefix and '
                'convert_weights). --fix '
                'takes init_cfg out, so that nothing half-loads',
                {f'model.{name}.init_cfg': None},
            )


def as_backbone(part: dict[str, Any], state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """``state`` under the names that the backbone of config ``part`` takes from it, as mmdet and MMEngine do."""
    if short_name(part) == 'SwinTransformer':
        if part.get('convert_weights'):
            from mmdet.models.backbones.swin import swin_converter

            state = swin_converter(state)
        return {key.removeprefix('backbone.'): value for key, value in state.items() if key.startswith('backbone.')}
    prefix = part['init_cfg'].get('prefix')
    if prefix is None:
        return {key.removeprefix('module.'): value for key, value in state.items()}
    prefix = prefix.rstrip('.') + '.'
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


@rule('spconv-layout', 'warning', 'https://github.com/open-mmlab/mmdetection3d/issues/3130')
def check_kernel_layout(case: Case) -> Iterator[Problem]:
    """Sparse kernels that mmdet3d would turn the wrong way, or not at all; our encoder reads the layout off the shapes."""
    found, path = sparse_encoder(case.cfg), None if case.quick else start_file(case.cfg)
    if found is None or path is None or is_ours(found[1]):
        return
    loaded, metadata = read_state(path)
    has_spconv = importlib.util.find_spec('spconv') is not None
    own = case.model_state
    wrong = [
        key
        for key, value in loaded.items()
        if value.ndim == 5 and key in own and loaded_shape(value.shape, has_spconv, _version(metadata, key)) != tuple(own[key].shape)
    ]
    if wrong:
        yield Problem(
            f'{len(wrong)} sparse kernels of {path} would be read in the wrong layout, the first {wrong[0]} '
            f'{tuple(loaded[wrong[0]].shape)} for {tuple(own[wrong[0]].shape)} (module version in the file: '
            f'{_version(metadata, wrong[0])})',
            'convert the file with tools/convert_checkpoint.py, or use bevfusion_plugin.BEVFusionSparseEncoder',
        )


def loaded_shape(shape: Sequence[int], has_spconv: bool, version: int | None) -> tuple[int, ...]:
    """The shape in which mmdet3d hands a stored kernel to its module: with spconv 2, all but version 2 is turned.

    Source:
        mmdet3d/models/layers/spconv/overwrite_spconv/write_spconv2.py: (D, H, W, in, out) to (out, D, H, W, in).
    """
    shape = tuple(shape)
    return shape[4:] + shape[:4] if has_spconv and version != 2 else shape


def _version(metadata: Any, key: str) -> int | None:
    return mapping(mapping(metadata).get(key.rpartition('.')[0])).get('version')
