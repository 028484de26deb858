"""What cannot work in the settings of one of mmdet3d's data sets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mmdet3d.structures import get_box_type

from bevfusion_plugin.plan.checked_settings import LARGEST, is_sequence, one_of, settings_dict, switch, texts, whole_number, whole_numbers

SWITCHES = (
    'filter_empty_gt',
    'test_mode',
    'load_eval_anns',
    'show_ins_var',
    'serialize_data',
    'lazy_init',
    'with_velocity',
    'use_valid_flag',
)
DICTS = ('filter_cfg', 'backend_args')  # or None
PATHS = ('data_root', 'ann_file', 'default_cam_key')  # '' is allowed, and None where mmdet3d takes it
LOAD_TYPES = ('frame_based', 'mv_image_based', 'fov_image_based')


def check_dataset_settings(known_classes: Sequence[str], **settings: Any) -> None:
    """Raise a ``ValueError`` that names the setting which cannot work, and its value.

    Args:
        known_classes: Those that the data set knows.
        **settings: Arguments of mmdet3d's ``Det3DDataset`` or ``NuScenesDataset``; those that are not given are not asked for.
    """
    for name in settings.keys() & set(SWITCHES):
        switch(name, settings[name])
    for name in settings.keys() & set(PATHS):
        if not isinstance(settings[name], (str, type(None))):
            raise ValueError(f'{name} must be text, got {settings[name]!r}')
    for name in DICTS:
        if settings.get(name) is not None:
            settings_dict(name, settings[name])
    if settings.get('max_refetch') is not None:
        whole_number('max_refetch', settings['max_refetch'], 0)
    if 'load_type' in settings:
        one_of('load_type', settings['load_type'], LOAD_TYPES)
    _check_metainfo(known_classes, settings.get('metainfo'))
    if 'modality' in settings:
        _check_modality(settings['modality'])
    _check_pipeline(settings.get('pipeline', ()))
    if 'data_prefix' in settings:
        for name, folder in settings_dict('data_prefix', settings['data_prefix']).items():
            if not isinstance(folder, str):
                raise ValueError(f'data_prefix.{name} must be text, got {folder!r}')
    if 'box_type_3d' in settings:
        _check_box_type(settings['box_type_3d'])


def check_indices(indices: int | Sequence[int] | None, length: int) -> None:
    """Raise a ``ValueError`` if ``indices`` chooses no sample of a data set of ``length``, or one that it does not have."""
    if indices is None:
        return
    if not is_sequence(indices):
        chosen = abs(whole_number('indices', indices, -LARGEST, mend='the first n samples, with a minus the last'))
    else:
        chosen = len(whole_numbers('indices', indices, least=-length))
        if chosen and max(indices) >= length:
            raise ValueError(f'indices must be below {length}, the number of samples, got {indices!r}')
    if not chosen:
        raise ValueError(f'indices must choose one sample or more, got {indices!r}; None: all')


def _check_metainfo(known_classes: Sequence[str], metainfo: Mapping[str, Any] | None) -> None:
    if metainfo is None or 'classes' not in settings_dict('metainfo', metainfo):
        return
    classes = texts('metainfo.classes', metainfo['classes'])
    unknown = [name for name in classes if name not in known_classes]
    if unknown or not len(classes) or len(set(classes)) < len(classes):
        wrong = f'{", ".join(unknown)} is unknown' if unknown else 'one is repeated' if len(classes) else 'none is there'
        raise ValueError(f'metainfo.classes must be one or more of {", ".join(known_classes)}, each once; got {classes!r}, where {wrong}')


def _check_modality(modality: Mapping[str, Any] | None) -> None:
    sensors = settings_dict('modality', modality)
    for name, value in sensors.items():
        switch(f'modality.{name}', value)
    if not (sensors.get('use_lidar') or sensors.get('use_camera')):
        raise ValueError(f'modality must have use_lidar or use_camera set to True, got {modality!r}')


def _check_pipeline(pipeline: Sequence[Mapping | Callable]) -> None:
    steps_are_steps = is_sequence(pipeline) and all(callable(step) or isinstance(step, Mapping) and 'type' in step for step in pipeline)
    if not steps_are_steps:
        raise ValueError(f'pipeline must be a list of transforms or their configs, each with type; got {pipeline!r}')


def _check_box_type(box_type_3d: str) -> None:
    try:
        get_box_type(box_type_3d)
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"box_type_3d must be 'LiDAR', 'Camera' or 'Depth', got {box_type_3d!r}") from error
