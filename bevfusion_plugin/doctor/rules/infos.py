"""Rules about the info files and the object database, where they are on the disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bevfusion_plugin.doctor.case import Case, info_path
from bevfusion_plugin.doctor.finding import Problem, rule
from bevfusion_plugin.doctor.reading.classes import NUSCENES, trained_classes
from bevfusion_plugin.doctor.reading.config import innermost_dataset, mapping
from bevfusion_plugin.doctor.reading.nuscenes import TRAIN_FRAMES, VAL_FRAMES, is_nuscenes
from bevfusion_plugin.doctor.reading.pipelines import PASTE, pasting
from bevfusion_plugin.doctor.reading.plain_pickle import NotPlain, read_plain

EXPECTED_FRAMES = dict(train=TRAIN_FRAMES, val=VAL_FRAMES)
LOOKED_AT = 20  # objects of a class whose points are read
MIN_POINTS = 20  # with fewer the highest point says little about the height
FULL_HEIGHT = 0.65  # share of the height that the points of an object reach; of half a box they reach 0.5
AGAIN = "make infos and database again with the code in use (mmdet3d's create_data.py)"


@rule('pickle-runs-code', 'error', 'https://docs.python.org/3/library/pickle.html')
def check_plain_pickles(case: Case) -> Iterator[Problem]:
    """An info file or object database in which something other than data is named: whoever reads it may run code."""
    if case.quick:
        return  # it takes as long as reading them
    found = pasting(case.cfg)
    databases = [mapping(step.get('db_sampler')).get('info_path') for step in found.named(PASTE)] if found is not None else []
    infos = [info_path(innermost_dataset(case.cfg, split)) for split in ('train', 'val', 'test')]
    for path in dict.fromkeys(Path(str(path)) for path in [*infos, *databases] if path):
        if path.suffix == '.pkl' and path.is_file():
            try:
                read_plain(path)
            except NotPlain as error:
                yield Problem(f'{path} {error}', f'do not train on it unless you trust where it comes from; {AGAIN}')


@rule('info-counts', 'warning', 'https://github.com/mit-han-lab/bevfusion/issues/86')
def check_info_counts(case: Case) -> Iterator[Problem]:
    """Info files of another version of nuScenes than the data set's, or of trainval without all of it."""
    for split, expected in EXPECTED_FRAMES.items():
        dataset = innermost_dataset(case.cfg, split)
        infos = case.info_file(split) if is_nuscenes(dataset) else None
        if infos is None:
            continue
        version = mapping(infos.get('metainfo')).get('version')
        wanted = mapping(dataset.get('metainfo')).get('version', 'v1.0-trainval')  # mmdet3d's default
        if version not in (None, wanted):
            yield Problem(
                f'the {split} info file {dataset["ann_file"]} was made from {version}, and the data set is {wanted}',
                f'make it from {wanted} (tools/prepare_nuscenes.py --overwrite), or set metainfo.version of the data set',
            )
        elif version == 'v1.0-trainval' and len(infos['data_list']) != expected:
            yield Problem(
                f'the {split} info file {dataset["ann_file"]} holds {len(infos["data_list"]):,} frames; nuScenes '
                f'v1.0-trainval has {expected:,}',
                'a part of the data gives other scores than the published ones; ' + AGAIN,
            )


@rule('info-categories', 'error', 'mmdet3d/datasets/det3d_dataset.py, Det3DDataset.label_mapping')
def check_info_categories(case: Case) -> Iterator[Problem]:
    """Info files that number the classes otherwise than the data set: mmdet3d takes their labels as they are."""
    for split in EXPECTED_FRAMES:
        dataset = innermost_dataset(case.cfg, split)
        infos = case.info_file(split) if is_nuscenes(dataset) else None
        if infos is not None:
            from bevfusion_plugin.datasets.checks.infos import categories_fault

            fault = categories_fault(mapping(infos.get('metainfo')).get('categories'), NUSCENES, trained_classes(dataset) or NUSCENES)
            if fault:
                yield Problem(
                    f'{fault.where} {dataset["ann_file"]} ({split}) {fault.what}: boxes would be trained under wrong names', fault.mend
                )


@rule('object-database', 'warning', 'https://github.com/mit-han-lab/bevfusion/issues/305')
def check_object_database(case: Case) -> Iterator[Problem]:
    """Pasted objects without points, or cut out with boxes at half the height."""
    found = None if case.quick else pasting(case.cfg)
    for step in found.named(PASTE)[:1] if found is not None else []:
        sampler = mapping(step.get('db_sampler'))
        path = Path(str(sampler.get('info_path')))
        if not path.is_file():
            return
        objects = read_plain(path)
        empty = sum(entry.get('num_points_in_gt', 1) < 1 for entries in objects.values() for entry in entries)
        if empty:
            yield Problem(f'{empty:,} objects of {path} have no point: their boxes would be pasted around nothing', AGAIN)
        reach = reached_heights(objects, Path(str(sampler.get('data_root') or '')))
        if len(reach) and np.median(reach) < FULL_HEIGHT:
            yield Problem(
                f'the points of the objects in {path} fill {np.median(reach):.0%} of the height of their boxes: they '
                'were cut with boxes shifted by half a height (62.5 instead of 64.7 mAP)',
                AGAIN,
            )


def reached_heights(objects: dict[str, list[dict[str, Any]]], root: Path) -> np.ndarray:
    """The share of its box's height that each object's points span, for some objects of each class."""
    shares = []
    for entries in objects.values():
        full = [entry for entry in entries if entry.get('num_points_in_gt', 0) >= MIN_POINTS]
        for entry in full[:LOOKED_AT]:
            path = root / entry['path']
            if path.is_file():
                heights = np.fromfile(path, dtype=np.float32).reshape(-1, 5)[:, 2]
                shares.append(np.ptp(heights) / entry['box3d_lidar'][5])
    return np.array(shares)
