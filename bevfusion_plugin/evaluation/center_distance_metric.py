"""Detection scores by centre distance for data sets that have info files but no nuScenes tables.

A "frame" is a dict of arrays: ``gt_centers`` (G, 3), ``gt_labels`` (G,), ``gt_points`` (G,) lidar points in the box
or -1 where unknown, ``centers`` (P, 3), ``labels`` (P,), ``scores`` (P,); centres in metres in the lidar frame.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from nuscenes.eval.common.data_classes import EvalBoxes
from nuscenes.eval.detection.algo import accumulate, calc_ap
from nuscenes.eval.detection.config import config_factory
from nuscenes.eval.detection.data_classes import DetectionBox, DetectionConfig
from terminaltables import AsciiTable

from bevfusion_plugin.plan.checked_settings import (
    checked_share,
    corners,
    is_sequence,
    non_empty_text,
    one_of,
    positive,
    settings_dict,
    whole_number,
)
from bevfusion_plugin.registry import METRICS

RECALL_DISTANCE = 2.0  # metres


def frame_from_sample(sample: Mapping) -> dict[str, np.ndarray]:
    """The frame of one ``Det3DDataSample`` given as a dict, boxes labelled -1 left out.

    Ground truth is ``eval_ann_info`` (mmdet3d's data sets in test mode), else ``gt_instances_3d``, which has no
    count of lidar points.

    Raises:
        ValueError: The sample has no ground truth.
    """
    truth = sample.get('eval_ann_info')
    if truth is not None:
        boxes, labels = truth['gt_bboxes_3d'], torch.as_tensor(truth['gt_labels_3d'])
        points = torch.as_tensor(truth.get('num_lidar_pts', np.full(len(labels), -1)))
    elif 'bboxes_3d' in sample.get('gt_instances_3d', {}):
        boxes, labels = sample['gt_instances_3d']['bboxes_3d'], sample['gt_instances_3d']['labels_3d']
        points = torch.full((len(labels),), -1)
    else:
        raise ValueError(
            f'sample {sample.get("sample_idx")} has no ground truth: set test_mode=True and keep load_eval_anns=True in the dataset'
        )
    prediction = sample['pred_instances_3d']
    known = (labels >= 0).cpu()
    tensors = dict(
        gt_centers=boxes.gravity_center,
        gt_labels=labels,
        gt_points=points,
        centers=prediction['bboxes_3d'].gravity_center,
        labels=prediction['labels_3d'],
        scores=prediction['scores_3d'],
    )
    frame = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu()
        tensor = tensor[known] if name.startswith('gt_') else tensor
        frame[name] = (tensor.double() if tensor.is_floating_point() else tensor).numpy()  # numpy has no bfloat16
    return frame


def eval_boxes(frames: Sequence[Mapping], classes: Sequence[str], class_range: Mapping[str, float], truth: bool) -> EvalBoxes:
    """Ground truth or predictions of all frames as the devkit's ``EvalBoxes``, filtered as the devkit does.

    Kept are boxes nearer than ``class_range`` (metres), and of the ground truth those with lidar points. The
    distance is taken from the lidar, which in nuScenes sits about 0.9 m in front of the ego origin the devkit
    uses. Average precision depends on centres alone: size and rotation are placeholders.
    """
    prefix = 'gt_' if truth else ''
    found = EvalBoxes()
    for token, frame in enumerate(frames):
        centers, labels = frame[f'{prefix}centers'], frame[f'{prefix}labels']
        scores = np.full(len(labels), -1.0) if truth else frame['scores']
        boxes = [_box(str(token), center, classes[label], score) for center, label, score in zip(centers, labels, scores)]
        keep = frame['gt_points'] != 0 if truth else np.ones(len(labels), bool)
        found.add_boxes(str(token), [box for box, kept in zip(boxes, keep) if kept and box.ego_dist < class_range[box.detection_name]])
    return found


def _box(token: str, center: np.ndarray, name: str, score: float) -> DetectionBox:
    box = DetectionBox(
        sample_token=token,
        translation=tuple(center),
        ego_translation=tuple(center),
        size=(1.0, 1.0, 1.0),
        rotation=(1.0, 0.0, 0.0, 0.0),
        detection_score=float(score),
    )
    box.detection_name = name  # the constructor takes nuScenes' classes alone, and nothing after it asks
    return box


def average_precisions(
    frames: Sequence[Mapping], classes: Sequence[str], config: DetectionConfig, class_range: Mapping[str, float]
) -> dict[str, dict[float, float]]:
    """AP in [0, 1] by class and distance threshold in metres, for the classes that occur in the ground truth."""
    truth = eval_boxes(frames, classes, class_range, truth=True)
    predictions = eval_boxes(frames, classes, class_range, truth=False)
    occurring = {box.detection_name for box in truth.all}
    return {
        name: {
            distance: calc_ap(
                accumulate(truth, predictions, name, config.dist_fcn_callable, distance), config.min_recall, config.min_precision
            )
            for distance in config.dist_ths
        }
        for name in classes
        if name in occurring
    }


def found_within(frame: Mapping, distance: float, score_thr: float) -> np.ndarray:
    """Which ground-truth boxes (G,) have a prediction of their class nearer than ``distance`` in the ground plane.

    Each prediction with at least ``score_thr`` takes, best score first, the nearest box of its class that is still
    free, as the devkit matches.
    """
    found = np.zeros(len(frame['gt_labels']), bool)
    for index in np.argsort(-frame['scores'], kind='stable'):
        if frame['scores'][index] < score_thr:
            break
        gap = np.linalg.norm(frame['gt_centers'][:, :2] - frame['centers'][index, :2], axis=1)
        gap[found | (frame['gt_labels'] != frame['labels'][index])] = np.inf
        if gap.min(initial=np.inf) < distance:
            found[gap.argmin()] = True
    return found


def counted_for_recall(frame: Mapping, point_cloud_range: np.ndarray, min_points: int) -> np.ndarray:
    """Which ground-truth boxes (G,) have their centre in the range and at least ``min_points`` (or unknown) points."""
    centers, points = frame['gt_centers'], frame['gt_points']
    inside = ((centers >= point_cloud_range[:3]) & (centers <= point_cloud_range[3:])).all(1)
    return inside & ((points >= min_points) | (points < 0))


def class_names(meta: Mapping | None) -> Sequence[str]:
    """The names of the classes, in the order of the labels, of a data set's ``metainfo``.

    Raises:
        ValueError: If it has none.
    """
    classes = (meta or {}).get('classes')
    if not is_sequence(classes) or not len(classes) or not all(isinstance(name, str) for name in classes):
        raise ValueError(
            f'CenterDistanceMetric needs the names of the classes, got {classes!r} as metainfo.classes of the data set; set '
            "metainfo=dict(classes=['car', ...]) there, in the order of the labels"
        )
    return classes


def devkit_version(name: str) -> str:
    """``name`` itself, of one of the devkit's configurations.

    Raises:
        ValueError: If the devkit has none of this name.
    """
    try:
        config_factory(non_empty_text('eval_version', name))
    except AssertionError as error:
        raise ValueError(f'eval_version must be the name of a configuration of nuscenes-devkit, got {name!r}') from error
    return name


@METRICS.register_module()
class CenterDistanceMetric(BaseMetric):
    """nuScenes' average precision, and recall at 2 m, from the annotations the samples carry.

    Gives ``<class>_AP_dist_<metres>`` for every class that occurs, ``mAP`` (their mean; nan without ground truth)
    and ``recall@2m``: the share of boxes inside ``point_cloud_range`` with enough lidar points that are found
    within 2 m with the right class and a score of at least ``score_thr``. Made for single frames and clips where
    ``NuScenesMetric`` cannot run, and for classes of one's own; on a whole nuScenes split use that one.

    The classes are those of the data set's ``metainfo``. MMEngine hands it on when it builds the validation loop, so that what
    cannot be scored is refused before the first iteration.

    Args:
        point_cloud_range: (x_min, y_min, z_min, x_max, y_max, z_max) in metres, for the recall.
        min_points: Boxes with fewer lidar points do not count for the recall; those of ``gt_instances_3d``, where
            the number is not known, all do.
        score_thr: Predictions below do not count for the recall.
        eval_version: Name of the devkit's configuration (thresholds, ranges of nuScenes' classes).
        class_range: Class -> metres up to which its boxes count for the average precision; those that it does not name have the
            devkit's range (30 to 50 m), or ``default_range`` if that does not know them.
        default_range: Metres; the devkit's own for the classes it looks farthest for.
        collect_device: See ``BaseMetric``.
        prefix: Put in front of the names; 'center_distance' if None.

    Raises:
        ValueError: An argument cannot be, ``class_range`` names a class that the data set does not have, the data set has no
            classes, a sample has no ground truth or a label without a class.

    Source:
        nuscenes-devkit 1.2.0 ``nuscenes.eval.detection`` (arXiv:1903.11027, section 3.1).
    """

    default_prefix = 'center_distance'

    def __init__(
        self,
        point_cloud_range: Sequence[float] = (-54.0, -54.0, -5.0, 54.0, 54.0, 3.0),
        min_points: int = 5,
        score_thr: float = 0.3,
        eval_version: str = 'detection_cvpr_2019',
        class_range: Mapping[str, float] | None = None,
        default_range: float = 50.0,
        collect_device: str = 'cpu',
        prefix: str | None = None,
    ) -> None:
        one_of('collect_device', collect_device, ('cpu', 'gpu'))
        super().__init__(collect_device=collect_device, prefix=prefix if prefix is None else non_empty_text('prefix', prefix))
        self.point_cloud_range = np.asarray(corners('point_cloud_range', point_cloud_range), dtype=float)
        self.min_points = whole_number('min_points', min_points, 0)
        self.score_thr = checked_share('score_thr', score_thr)
        self.config = config_factory(devkit_version(eval_version))
        self.class_range = {
            name: positive(f'class_range.{name}', metres)
            for name, metres in settings_dict('class_range', {} if class_range is None else class_range).items()
        }
        self.default_range = positive('default_range', default_range)

    @BaseMetric.dataset_meta.setter
    def dataset_meta(self, meta: Mapping | None) -> None:
        """Takes the data set's ``metainfo``."""
        classes = class_names(meta)
        absent = set(self.class_range) - set(classes)
        if absent:
            raise ValueError(
                f'class_range names {", ".join(sorted(absent))}, and the data set has {", ".join(classes)}; its classes '
                'come from metainfo.classes of the dataset'
            )
        self._dataset_meta = meta

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Keeps the centres, labels and scores of a batch."""
        classes = class_names(self.dataset_meta)
        for sample in data_samples:
            frame = frame_from_sample(sample)
            labels = np.concatenate([frame['labels'], frame['gt_labels']])
            if labels.max(initial=0) >= len(classes):
                raise ValueError(
                    f'sample {sample.get("sample_idx")} has the label {labels.max()}, and the data set {len(classes)} '
                    f'classes ({", ".join(classes)}); let num_classes of the head be that of metainfo.classes'
                )
            self.results.append(frame)

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        """The scores by name; prints them by class as a table."""
        classes = class_names(self.dataset_meta)
        ranges = {name: self.class_range.get(name, self.config.class_range.get(name, self.default_range)) for name in classes}
        aps = average_precisions(results, classes, self.config, ranges)
        labels, found = self._recall(results)
        scores = {f'{name}_AP_dist_{distance}': ap for name, row in aps.items() for distance, ap in row.items()}
        scores['mAP'] = _mean([ap for row in aps.values() for ap in row.values()])
        scores['recall@2m'] = _mean(found)
        self._print(aps, {name: _mean(found[labels == index]) for index, name in enumerate(classes)}, scores)
        return scores

    def _recall(self, frames: Sequence[Mapping]) -> tuple[np.ndarray, np.ndarray]:
        """Labels of the boxes that count, over all frames, and whether they were found."""
        labels, found = [np.zeros(0, int)], [np.zeros(0, bool)]
        for frame in frames:
            counted = counted_for_recall(frame, self.point_cloud_range, self.min_points)
            labels.append(frame['gt_labels'][counted])
            found.append(found_within(frame, RECALL_DISTANCE, self.score_thr)[counted])
        return np.concatenate(labels), np.concatenate(found)

    def _print(self, aps: Mapping, recalls: Mapping, scores: Mapping) -> None:
        header = ['class', *[f'AP@{distance}m' for distance in self.config.dist_ths], 'mean', 'recall@2m']
        rows = [[name, *row.values(), _mean(list(row.values())), recalls[name]] for name, row in aps.items()]
        rows.append(['all', *[''] * len(self.config.dist_ths), scores['mAP'], scores['recall@2m']])
        text = [[cell if isinstance(cell, str) else f'{cell:.3f}' for cell in row] for row in rows]
        print_log('\n' + AsciiTable([header, *text]).table, logger='current')


def _mean(values: Sequence[float] | np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else float('nan')
