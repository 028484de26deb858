"""A data set of anybody's own: mmdet3d's info format with any classes, cameras and point features."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from mmdet3d.datasets import Det3DDataset
from mmdet3d.structures import LiDARInstance3DBoxes

from bevfusion_plugin.datasets.nuscenes_dataset import NamesBadInfos
from bevfusion_plugin.plan.checked_settings import finite_numbers, settings_dict, switch, texts
from bevfusion_plugin.registry import DATASETS


@DATASETS.register_module()
class Custom3DDataset(NamesBadInfos, Det3DDataset):
    """Frames of an info file in mmdet3d's format 2, boxes in the lidar frame: docs/custom_data.md shows such a file.

    mmdet3d's ``Det3DDataset`` leaves to a class of each data set which names the labels have and what a box is; here they are
    arguments. Boxes that no lidar point hits (``num_lidar_pts`` of 0) are left out, as nuScenes' are.

    Args:
        metainfo: ``classes``: names of the classes to train, in the order of the model's labels.
        categories: Names of all classes of the info file, in the order of its labels; None: ``metainfo.classes``. Boxes of those that
            ``metainfo.classes`` does not name are not trained.
        with_velocity: Boxes get the ``velocity`` (vx, vy) of their entries, m/s; NaN, which nobody measured, becomes 0.
        box_origin: Where in a box its (x, y, z) lies, as shares of length, width and height: (0.5, 0.5, 0.5) in its middle, as nuScenes'
            converter writes it; (0.5, 0.5, 0) at the bottom.
        **kwargs: Those of mmdet3d's ``Det3DDataset``: ``data_root``, ``ann_file``, ``data_prefix``, ``modality``, ``pipeline`` ...

    Raises:
        ValueError: At construction, if there are no classes, ``categories`` lacks one, or ``box_origin`` is no place in a box.
        BadSample: At construction; see :class:`NamesBadInfos`.
    """

    def __init__(
        self,
        *args,
        metainfo: dict | None = None,
        categories: Sequence[str] | None = None,
        with_velocity: bool = False,
        box_origin: Sequence[float] = (0.5, 0.5, 0.5),
        **kwargs,
    ) -> None:
        classes = settings_dict('metainfo', metainfo, 'classes')['classes']
        known = texts('metainfo.classes', classes) if categories is None else texts('categories', categories)
        if not len(known) or len(set(known)) < len(known):
            raise ValueError(
                f'{"metainfo.classes" if categories is None else "categories"} must be names of classes, each once, got {known!r}'
            )
        self.METAINFO = dict(classes=tuple(known))
        self.with_velocity = switch('with_velocity', with_velocity)
        self.box_origin = tuple(finite_numbers('box_origin', box_origin, 3, least=0))
        if max(self.box_origin) > 1:
            raise ValueError(f'box_origin must be three shares of a box in [0, 1], got {box_origin!r}')
        super().__init__(*args, metainfo=metainfo, **kwargs)

    def parse_ann_info(self, info: dict) -> dict:
        """Boxes and labels of an entry; none where it has no boxes."""
        annotations = super().parse_ann_info(info)
        columns = 9 if self.with_velocity else 7
        if annotations is None:
            annotations = dict(gt_bboxes_3d=np.zeros((0, columns), np.float32), gt_labels_3d=np.zeros(0, np.int64))
        elif self.with_velocity:
            velocities = np.nan_to_num(annotations['velocities'].reshape(-1, 2))
            annotations['gt_bboxes_3d'] = np.concatenate([annotations['gt_bboxes_3d'], velocities], axis=1)
        if 'num_lidar_pts' in annotations:
            hit = annotations['num_lidar_pts'] != 0
            annotations = {name: values if name == 'instances' else values[hit] for name, values in annotations.items()}
        annotations['gt_bboxes_3d'] = LiDARInstance3DBoxes(annotations['gt_bboxes_3d'], box_dim=columns, origin=self.box_origin).convert_to(
            self.box_mode_3d
        )
        return annotations
