"""The check in front of a pipeline: a sample that is damaged is named before anything is made of it."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from mmcv.transforms import BaseTransform
from mmengine.logging import print_log
from PIL import Image

from bevfusion_plugin.datasets.checks.boxes import box_fault, box_reason, usable_boxes
from bevfusion_plugin.datasets.checks.calibration import calibration_fault
from bevfusion_plugin.datasets.checks.fault import Fault, bad_sample, sample_name
from bevfusion_plugin.datasets.checks.images import Seen, images_fault
from bevfusion_plugin.datasets.checks.infos import cameras_with_picture, sensor_fault
from bevfusion_plugin.datasets.checks.point_files import points_fault
from bevfusion_plugin.plan.checked_settings import corners, settings_dict, switch, texts
from bevfusion_plugin.registry import TRANSFORMS

ANNOTATIONS = ('ann_info', 'eval_ann_info')  # where mmdet3d's data sets put the boxes for training and for testing


@TRANSFORMS.register_module()
class CheckSample(BaseTransform):
    """Looks at the files, matrices and boxes of a sample, and raises one error that names file, sample and mend if one is damaged.

    Put it first in any pipeline on a data set of mmdet3d's format 2, for training and for validation::

        train_pipeline = [dict(type='bevfusion_plugin.CheckSample', point_cloud_range=point_cloud_range), ...]

    It changes nothing in a sample that is in order. Found are: missing, empty, cut off and damaged point files, sweeps too, with
    NaN, with far fewer points than the others of the same half second, or none in range; missing, cut off and grey images, those of
    another format or another camera's size; fields that are missing; matrices that are not finite, not rigid or singular; boxes
    that are not finite, have no size or are out of any sensor's reach. As they should be are: a frame without boxes, a box without
    points, a velocity that nobody measured (NaN), a frame without sweeps.

    Points are read once more than the pipeline does, from the disk's cache; of images the header and the end are looked at.

    Args:
        point_cloud_range: (x, y, z, x, y, z) in metres; the key frame must have a point in it. None: not asked.
        sweeps: Whether the pipeline loads sweeps.
        cameras: Names of the cameras that the pipeline loads; None: all that have a picture; []: none, as in a lidar model.
        leave_out_boxes: Leave boxes that are not finite or have no size out, with one warning a sample, instead of raising.
        image_modes: Pillow's modes that images may have; ``['L']`` for grey cameras.
        backend_args: Storage backend of ``mmengine.fileio.get``.

    Raises:
        BadSample: If the sample is damaged.
        ValueError: At construction, if an argument cannot work.
    """

    def __init__(
        self,
        point_cloud_range: Sequence[float] | None = None,
        sweeps: bool = True,
        cameras: Sequence[str] | None = None,
        leave_out_boxes: bool = False,
        image_modes: Sequence[str] = ('RGB',),
        backend_args: dict | None = None,
    ) -> None:
        if point_cloud_range is not None:
            corners('point_cloud_range', point_cloud_range)
        if cameras is not None:
            texts('cameras', cameras, mend="it is a list of names, such as ['CAM_FRONT']; None: all that have a picture")
        if backend_args is not None:
            settings_dict('backend_args', backend_args)
        unknown = set(texts('image_modes', image_modes)) - set(Image.MODES)
        if unknown or not len(image_modes):
            raise ValueError(f"image_modes must be modes of Pillow's, {', '.join(Image.MODES)}; got {image_modes!r}")
        self.point_cloud_range = point_cloud_range
        self.sweeps = switch('sweeps', sweeps)
        self.cameras = cameras
        self.leave_out_boxes = switch('leave_out_boxes', leave_out_boxes)
        self.image_modes = image_modes
        self.backend_args = backend_args
        self._sizes: Seen = {}
        self._warned: set[str] = set()

    def transform(self, results: dict) -> dict:
        """``results`` as it came, or without the boxes that are to be left out.

        Raises:
            BadSample: If the sample is damaged.
        """
        fault = self.sensors_fault(results) or self.boxes_fault(results)
        if fault:
            raise bad_sample(results, fault)
        return results

    def sensors_fault(self, results: dict) -> Fault | None:
        """What is wrong with fields, matrices and files."""
        uses_points = 'lidar_path' in results  # mmdet3d's data sets add it with modality.use_lidar
        wanted = [] if self.cameras is None and 'images' not in results else self.cameras  # infos of a set without cameras
        fault = sensor_fault(results, uses_points, self.sweeps, wanted)
        if fault:
            return fault
        cameras = {
            name: camera
            for name, camera in cameras_with_picture(results.get('images') or {}).items()
            if self.cameras is None or name in self.cameras
        }
        fault = calibration_fault(results, cameras, uses_points and self.sweeps)
        if uses_points:
            fault = fault or points_fault(results, self.sweeps, self.point_cloud_range, self.backend_args)
        return fault or images_fault(cameras, self.image_modes, self._sizes, self.backend_args)

    def boxes_fault(self, results: dict) -> Fault | None:
        """What is wrong with the boxes that are trained; None also where such boxes were left out."""
        annotations = next((results[key] for key in ANNOTATIONS if results.get(key)), None)
        if annotations is None or 'gt_bboxes_3d' not in annotations:
            return None
        boxes, labels = np.asarray(annotations['gt_bboxes_3d'].tensor), np.asarray(annotations['gt_labels_3d'])
        fault = box_fault(boxes, labels)
        if fault is None or not self.leave_out_boxes or len(boxes) != len(labels):
            return fault
        kept = usable_boxes(boxes)
        for name, values in annotations.items():
            if name != 'instances' and len(values) == len(kept):
                annotations[name] = values[kept]
        self._warn_once(results, boxes[~kept & (labels >= 0)])
        return None

    def _warn_once(self, results: dict, left_out: np.ndarray) -> None:
        name = sample_name(results)
        if name not in self._warned:
            self._warned.add(name)
            print_log(f'{name}: {len(left_out)} boxes are left out; the first {box_reason(left_out[0])}', 'current', logging.WARNING)

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(point_cloud_range={self.point_cloud_range}, sweeps={self.sweeps}, cameras={self.cameras}, '
            f'leave_out_boxes={self.leave_out_boxes}, image_modes={self.image_modes})'
        )
