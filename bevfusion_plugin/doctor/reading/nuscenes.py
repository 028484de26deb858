"""What a config says about nuScenes, and what is known of it without its files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from mmengine.config import Config

from bevfusion_plugin.doctor.reading.config import count, dataset_wrappers, innermost_dataset, mapping, short_name

TRAIN_FRAMES, VAL_FRAMES = 28_130, 6_019  # key frames of v1.0-trainval
LENGTH_KNOWN = {'CBGSDataset', 'RepeatDataset', 'SkipBadSamples'}  # wrappers whose length follows from what is inside
BALANCED_FRAMES = 123_580  # what class-balanced sampling (CBGS) makes of the training's for the ten classes


def is_nuscenes(dataset: dict[str, Any]) -> bool:
    """Whether ``dataset`` is mmdet3d's nuScenes, of any size, one frame with all its sensors a sample."""
    return short_name(dataset) == 'NuScenesDataset' and dataset.get('load_type', 'frame_based') == 'frame_based'


def is_nuscenes_trainval(dataset: dict[str, Any]) -> bool:
    """Whether ``dataset`` names the training part of the whole nuScenes."""
    version = mapping(dataset.get('metainfo')).get('version', 'v1.0-trainval')
    return is_nuscenes(dataset) and version == 'v1.0-trainval' and Path(str(dataset.get('ann_file'))).name == 'nuscenes_infos_train.pkl'


def known_samples(cfg: Config) -> int | None:
    """Samples an epoch of nuScenes' train split, plain, class-balanced or repeated, by the config alone; None for any other data."""
    wrappers = dataset_wrappers(cfg)
    names = {short_name(wrapper) for wrapper in wrappers}
    if names - LENGTH_KNOWN or not is_nuscenes_trainval(innermost_dataset(cfg)):
        return None
    return repeats(wrappers) * (BALANCED_FRAMES if 'CBGSDataset' in names else TRAIN_FRAMES)


def repeats(wrappers: list[dict[str, Any]]) -> int:
    """How often an epoch passes over the data."""
    return math.prod(count(wrapper.get('times')) or 1 for wrapper in wrappers if short_name(wrapper) == 'RepeatDataset')


def balanced_length(infos: dict[str, Any], dataset: dict[str, Any]) -> int:
    """Samples that class-balanced sampling draws from the info file ``infos``.

    Args:
        infos: Content of an info file of mmdet3d's format 2.
        dataset: Config of the data set, which names the classes and says which boxes are valid.

    Source:
        mmdet3d's ``CBGSDataset._get_sample_indices``, without drawing.
    """
    categories = infos.get('metainfo', {}).get('categories', {})
    classes = list(mapping(dataset.get('metainfo')).get('classes') or categories)
    wanted = {label: classes.index(name) for name, label in categories.items() if name in classes}
    sizes = [0] * len(classes)
    for info in infos['data_list']:
        for index in {
            wanted[box['bbox_label_3d']]
            for box in info.get('instances', [])
            if box.get('bbox_label_3d') in wanted and _is_valid(box, dataset)
        }:
            sizes[index] += 1
    total = sum(sizes)
    return sum(max(1, int(size * (1.0 / len(sizes)) / (size / total))) for size in sizes if size)


def _is_valid(box: dict[str, Any], dataset: dict[str, Any]) -> bool:
    return bool(box.get('bbox_3d_isvalid', True)) if dataset.get('use_valid_flag') else box.get('num_lidar_pts', 1) > 0
