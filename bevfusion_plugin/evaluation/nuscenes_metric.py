"""nuScenes' official evaluation for a training that must go on: no boxes are a score of zero, not an exception."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from math import nan
from pathlib import Path

from mmdet3d.evaluation import NuScenesMetric as MMDet3DNuScenesMetric
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from nuscenes.eval.detection.constants import DETECTION_NAMES, TP_METRICS
from nuscenes.eval.detection.data_classes import DetectionConfig, DetectionMetrics

from bevfusion_plugin.evaluation.center_distance_metric import devkit_version
from bevfusion_plugin.plan.checked_settings import file_path, is_sequence, non_empty_text, one_of, settings_dict, switch
from bevfusion_plugin.registry import METRICS

SPLITS = ('v1.0-trainval', 'v1.0-mini')  # whose annotations are public
UNDEFINED = {'traffic_cone': ('attr_err', 'vel_err', 'orient_err'), 'barrier': ('attr_err', 'vel_err')}
NO_BOXES = 'Invalid box type: None'  # what nuscenes-devkit 1.2.0 raises, eval/common/loaders.py


@METRICS.register_module()
class NuScenesMetric(MMDet3DNuScenesMetric):
    """mmdet3d's ``NuScenesMetric``, arguments and all, that outlasts an evaluation without boxes.

    Where nothing is predicted, or the split holds no annotation, every average precision is 0 and every error 1, as the devkit counts a
    class that is not found, with one warning a run. Classes that nuScenes does not know and tables without public
    annotations are refused when MMEngine hands on the data set's ``metainfo``, before the first iteration.

    Raises:
        ValueError: At construction, an argument cannot be; with the ``metainfo``, the devkit cannot score these classes or this version.
    """

    def __init__(
        self,
        data_root: str,
        ann_file: str,
        metric: str | Sequence[str] = 'bbox',
        modality: dict | None = None,
        prefix: str | None = None,
        format_only: bool = False,
        jsonfile_prefix: str | None = None,
        eval_version: str = 'detection_cvpr_2019',
        collect_device: str = 'cpu',
        backend_args: dict | None = None,
    ) -> None:
        file_path('data_root', data_root), file_path('ann_file', ann_file)
        metric = one_of('metric', metric[0] if is_sequence(metric) and len(metric) == 1 else metric, ('bbox',))
        for name, settings in dict(modality=modality, backend_args=backend_args).items():
            settings_dict(name, {} if settings is None else settings)
        if switch('format_only', format_only) or jsonfile_prefix is not None:
            file_path('jsonfile_prefix', jsonfile_prefix, mend='format_only=True writes the result file there')
        super().__init__(
            data_root,
            ann_file,
            metric,
            modality,
            prefix if prefix is None else non_empty_text('prefix', prefix),
            format_only,
            jsonfile_prefix,
            devkit_version(eval_version),
            one_of('collect_device', collect_device, ('cpu', 'gpu')),
            backend_args,
        )

    @BaseMetric.dataset_meta.setter
    def dataset_meta(self, meta: Mapping | None) -> None:
        """Takes the data set's ``metainfo``."""
        classes, version = (meta or {}).get('classes') or (), (meta or {}).get('version')
        unknown = [str(name) for name in classes if name not in DETECTION_NAMES]
        if unknown or not classes:
            raise ValueError(
                f'NuScenesMetric scores {", ".join(DETECTION_NAMES)}, the data set has {", ".join(map(str, classes)) or "no classes"}; '
                "score classes of your own with dict(type='bevfusion_plugin.CenterDistanceMetric')"
            )
        if version not in SPLITS and not self.format_only:
            raise ValueError(
                f'NuScenesMetric scores metainfo.version {" and ".join(SPLITS)}, got {version!r}; set it in the dataset, or '
                'only write the result file with format_only=True'
            )
        self._dataset_meta = meta

    def _evaluate_single(self, result_path: str, classes: Sequence[str], result_name: str = 'pred_instances_3d') -> dict[str, float]:
        """mmdet3d's, called for each kind of boxes."""
        try:
            return super()._evaluate_single(result_path, classes, result_name)
        except Exception as error:  # the devkit raises no other class
            if NO_BOXES not in str(error):
                raise
        predicted = any(json.loads(Path(result_path).read_text())['results'].values())
        if not getattr(self, 'has_warned', False):
            what = 'the split has no annotation' if predicted else 'no box is predicted within the range of its class'
            print_log(f'{what}: every score of this evaluation is 0', 'current', logging.WARNING)
            self.has_warned = True
        return scores_without_boxes(self.eval_detection_configs, classes, f'{result_name}_NuScenes', self.ErrNameMapping)


def scores_without_boxes(config: DetectionConfig, classes: Sequence[str], prefix: str, mean_names: Mapping[str, str]) -> dict[str, float]:
    """The scores, by the names of mmdet3d's metric, of a detector that finds nothing.

    Args:
        config: The devkit's.
        classes: Those of the data set.
        prefix: Stands before each name.
        mean_names: The devkit's names of the errors and those of their means.
    """
    metrics = DetectionMetrics(config)
    for name in config.class_names:
        for distance in config.dist_ths:
            metrics.add_label_ap(name, distance, 0.0)
        for error in TP_METRICS:
            metrics.add_label_tp(name, error, nan if error in UNDEFINED.get(name, ()) else 1.0)
    scores = {}
    for name in classes:
        scores.update({f'{name}_AP_dist_{distance}': 0.0 for distance in config.dist_ths})
        scores.update({f'{name}_{error}': metrics.get_label_tp(name, error) for error in TP_METRICS})
    scores.update({mean_names[error]: value for error, value in metrics.tp_errors.items()})
    return {f'{prefix}/{name}': value for name, value in dict(scores, NDS=metrics.nd_score, mAP=metrics.mean_ap).items()}
