"""Augmentation of points and boxes in the lidar frame, recorded in ``lidar_aug_matrix``.

``lidar_aug_matrix`` is (4, 4) float64, acts on column vectors and leads from the lidar frame as recorded to the
augmented one. The view transform undoes it before it projects points to the images, so it has to be there even
when nothing was changed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from mmcv.transforms import BaseTransform
from mmdet3d.datasets.transforms import GlobalRotScaleTrans

from bevfusion_plugin.plan.checked_settings import finite_number, finite_numbers, is_sequence, low_and_high, switch
from bevfusion_plugin.registry import TRANSFORMS

LEAST_SCALE = 0.01  # of a cloud: 100 m in one
MIRRORS = dict(horizontal=np.diag([1.0, -1.0, 1.0, 1.0]), vertical=np.diag([-1.0, 1.0, 1.0, 1.0]))  # y and x change sign
MASK_AXIS = dict(horizontal=2, vertical=1)  # gt_masks_bev is (classes, x, y)


def rotation_scale_translation(rotation: np.ndarray, translation: np.ndarray, scale: float) -> np.ndarray:
    """The (4, 4) float64 matrix of p -> ``scale`` * (``rotation`` p + ``translation``).

    Args:
        rotation: (3, 3), acting on column vectors.
        translation: (3,) metres, scaled too.
        scale: Factor.
    """
    matrix = np.eye(4)
    matrix[:3, :3] = rotation * scale
    matrix[:3, 3] = translation * scale
    return matrix


def own_points_and_boxes(results: dict, transform: str) -> None:
    """Replaces ``points`` and ``gt_bboxes_3d`` by copies: mmdet3d's changes in place would reach the caller's cache.

    Raises:
        KeyError: There are no points.
    """
    if 'points' not in results:
        raise KeyError(f"{transform} needs 'points': put LoadPointsFromFile in front of it")
    results['points'] = results['points'].clone()
    if 'gt_bboxes_3d' in results:
        results['gt_bboxes_3d'] = results['gt_bboxes_3d'].clone()


@TRANSFORMS.register_module()
class BEVFusionGlobalRotScaleTrans(GlobalRotScaleTrans):
    """Rotates about z, then translates, then scales (the translation too), unlike mmdet3d's rotate-scale-translate.

    Reads ``points`` and, if there, ``gt_bboxes_3d``; replaces them. Draws from numpy's global state the angle, the
    scale (unless ``pcd_scale_factor`` is there already) and the translation, in this order. Adds ``pcd_rotation``
    (acts on row vectors), ``pcd_rotation_angle``, ``pcd_scale_factor``, ``pcd_trans``, extends
    ``transformation_3d_flow`` by R, T, S and multiplies ``lidar_aug_matrix`` from the left.

    Arguments are those of mmdet3d's ``GlobalRotScaleTrans``.

    Raises:
        ValueError: One cannot be.

    Source:
        mmdetection3d 1.4.0 ``projects/BEVFusion``; ours leaves the arrays of the caller as they are.
    """

    def __init__(
        self,
        rot_range: float | Sequence[float] = (-0.78539816, 0.78539816),
        scale_ratio_range: Sequence[float] = (0.95, 1.05),
        translation_std: float | Sequence[float] = (0, 0, 0),
        shift_height: bool = False,
    ) -> None:
        if is_sequence(rot_range):
            low_and_high('rot_range', rot_range)
        else:
            finite_number('rot_range', rot_range, 0, mend='or write it as a pair')
        low_and_high('scale_ratio_range', scale_ratio_range, LEAST_SCALE, 1 / LEAST_SCALE)
        if is_sequence(translation_std):
            stds = finite_numbers('translation_std', translation_std, 3, least=0)
        else:
            stds = [finite_number('translation_std', translation_std, 0, mend='or write it as three')] * 3
        stds = [abs(std) for std in stds]  # numpy refuses to draw with -0.0
        super().__init__(rot_range, scale_ratio_range, stds, switch('shift_height', shift_height))

    def transform(self, results: dict) -> dict:
        """``results`` with rotated, translated and scaled points and boxes."""
        own_points_and_boxes(results, type(self).__name__)
        self._rot_bbox_points(results)
        if 'pcd_scale_factor' not in results:
            self._random_scale(results)
        self._trans_bbox_points(results)
        self._scale_bbox_points(results)
        results['transformation_3d_flow'] = [*results.get('transformation_3d_flow', []), 'R', 'T', 'S']

        step = rotation_scale_translation(results['pcd_rotation'].numpy().T, results['pcd_trans'], results['pcd_scale_factor'])
        results['lidar_aug_matrix'] = step @ results.get('lidar_aug_matrix', np.eye(4))
        return results


@TRANSFORMS.register_module()
class BEVFusionRandomFlip3D(BaseTransform):
    """Mirrors y ("horizontal") and x ("vertical"), each in half of the cases.

    Reads ``points`` and, if there, ``gt_bboxes_3d`` and ``gt_masks_bev`` (classes, x, y); replaces them. Draws both
    choices from numpy's global state, horizontal first. Multiplies ``lidar_aug_matrix`` from the left.

    Source:
        mmdetection3d 1.4.0 ``projects/BEVFusion``; ours leaves the arrays of the caller as they are.
    """

    def transform(self, results: dict) -> dict:
        """``results`` with points, boxes and masks mirrored or not."""
        own_points_and_boxes(results, type(self).__name__)
        matrix = results.get('lidar_aug_matrix', np.eye(4))
        drawn = {direction: np.random.choice([0, 1]) for direction in MIRRORS}
        for direction in [direction for direction, chosen in drawn.items() if chosen]:
            results['points'].flip(direction)
            if 'gt_bboxes_3d' in results:
                results['gt_bboxes_3d'].flip(direction)
            if 'gt_masks_bev' in results:
                results['gt_masks_bev'] = np.flip(results['gt_masks_bev'], MASK_AXIS[direction]).copy()
            matrix = MIRRORS[direction] @ matrix
        results['lidar_aug_matrix'] = matrix.copy()
        return results
