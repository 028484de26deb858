"""The metrics of a validation sorted by what they say: overall scores, average precision by class, errors.

Knows the names of nuScenes (``car_AP_dist_0.5``, ``mATE``, ``car_trans_err``), and takes those of COCO, KITTI and others as far
as they say 'AP' or 'precision' of a class.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping

BOOKKEEPING = ('time', 'data_time', 'memory', 'epoch', 'iter')
AP_AT = re.compile(r'(?P<name>.+)_AP(?:_dist)?_(?P<at>\d+(?:\.\d+)?)$')  # nuScenes: metres; ScanNet: overlap
OTHER_AP = re.compile(r'_(3D|BEV|2D)_AP|_AP(?![A-Za-z])|_precision$')  # KITTI: Car_3D_AP11_easy_strict; COCO: car_precision
MEAN_ERROR = re.compile(r'm(ATE|ASE|AOE|AVE|AAE)$')
CLASS_ERROR = re.compile(r'(?P<name>.+)_(?P<kind>trans|scale|orient|vel|attr)_err$')


def short_names(values: Mapping[str, float]) -> dict[str, float]:
    """The metrics without the evaluator's prefix ('pred_instances_3d_NuScenes/') where that leaves no two alike; no times."""
    metrics = {name: value for name, value in values.items() if name not in BOOKKEEPING}
    count = Counter(name.rpartition('/')[2] for name in metrics)
    return {name if count[name.rpartition('/')[2]] > 1 else name.rpartition('/')[2]: value for name, value in metrics.items()}


def overall_scores(values: Mapping[str, float]) -> dict[str, float]:
    """Whatever is no class's score and no error: mAP, NDS, accuracy, losses of the validation."""
    return {
        name: value
        for name, value in short_names(values).items()
        if not any(pattern.search(name) for pattern in (AP_AT, OTHER_AP, MEAN_ERROR, CLASS_ERROR))
    }


def mean_errors(values: Mapping[str, float]) -> dict[str, float]:
    """nuScenes' mean errors of the true positives: mATE (m), mASE, mAOE (rad), mAVE (m/s), mAAE."""
    return {name: value for name, value in short_names(values).items() if MEAN_ERROR.search(name)}


def class_table(values: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """By class the average precision at each threshold, in the order logged, and the errors of its true positives."""
    table: dict[str, dict[str, float]] = {}
    for name, value in short_names(values).items():
        precision, error = AP_AT.match(name), CLASS_ERROR.match(name)
        if precision:
            table.setdefault(precision['name'], {})[f'AP@{precision["at"]}'] = value
        elif error:
            table.setdefault(error['name'], {})[f'{error["kind"]} err'] = value
        elif OTHER_AP.search(name):
            table.setdefault(name, {})['AP'] = value
    return table


def class_precisions(values: Mapping[str, float]) -> dict[str, float]:
    """Average precision by class, the mean over its thresholds (nuScenes' AP of a class)."""
    precisions = {name: [value for column, value in row.items() if column.startswith('AP')] for name, row in class_table(values).items()}
    return {name: math.fsum(found) / len(found) for name, found in precisions.items() if found}


def headline(values: Mapping[str, float]) -> dict[str, float]:
    """mAP and NDS, as far as they are there; the mAP of another benchmark (bbox_mAP) if it has no plain one."""
    scores = overall_scores(values)
    found: dict[str, float] = {
        wanted: value for wanted in ('mAP', 'NDS') for name, value in scores.items() if name.rpartition('/')[2] == wanted
    }
    others = [value for name, value in scores.items() if name.endswith('mAP')]
    return {'mAP': others[0], **found} if others else found
