"""mmdet3d's data sets, with the sample named that they cannot read."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmdet3d.datasets import NuScenesDataset as MMDet3DNuScenesDataset

from bevfusion_plugin.datasets.checks.fault import LOOK_AT_ALL, MAKE_AGAIN, BadSample, Fault, bad_sample
from bevfusion_plugin.datasets.checks.infos import categories_fault, instances_fault, sensor_fault
from bevfusion_plugin.registry import DATASETS


class NamesBadInfos:
    """Put in front of one of mmdet3d's ``Det3DDataset`` classes: what its info file has wrong is named, with file and sample.

    ``class MyDataset(NamesBadInfos, Det3DDataset)``. It costs nothing where the file is in order: an entry is looked at if mmdet3d
    could not read it. Category names and tokens are compared once.

    Raises:
        ValueError: At construction, if ``metainfo.classes`` names a class that the data set does not know.
        BadSample: At construction, if an entry of the info file cannot be read, or the file itself, or if its categories are
            numbered otherwise than the data set's.
    """

    box_fields: Sequence[str] = ()  # what the entries of boxes need beside bbox_3d and bbox_label_3d

    def __init__(self, *args, metainfo: dict | None = None, **kwargs) -> None:
        known = self.METAINFO['classes']
        unknown = [name for name in (metainfo or {}).get('classes', ()) if name not in known]
        if unknown:
            raise ValueError(f'metainfo.classes names {", ".join(map(str, unknown))}, which {type(self).__name__} does not know; it knows '
                             f'{", ".join(known)}')
        super().__init__(*args, metainfo=metainfo, **kwargs)

    def load_data_list(self) -> list[dict]:
        """mmdet3d's, with a file that cannot be read, other categories and repeated samples named."""
        try:
            entries = super().load_data_list()
        except (BadSample, FileNotFoundError):
            raise
        except Exception as error:  # whatever a damaged pickle raises
            raise BadSample(f'the info file {self.ann_file} cannot be read ({type(error).__name__}: {error}); {MAKE_AGAIN}') from error
        fault = self.metainfo_fault()
        if fault:
            raise BadSample(f'{self.ann_file}: {fault.where} {fault.what}; {fault.mend}')
        first: dict[str, int] = {}
        for index, entry in enumerate(entries):
            token = entry.get('token')
            if token is not None and first.setdefault(token, index) != index and self.is_one_frame_a_sample:
                raise bad_sample(dict(entry, sample_idx=index), Fault('token of the info file', f'is that of sample {first[token]} too: it would be '
                                                                      'counted twice', f'take one of them out, or {MAKE_AGAIN}'))
        return entries

    @property
    def is_one_frame_a_sample(self) -> bool:
        """Whether each entry is a sample of its own, not one of a sample's cameras."""
        return getattr(self, 'load_type', 'frame_based') == 'frame_based'

    def metainfo_fault(self) -> Fault | None:
        """What is wrong with the categories of the info file, if it names them."""
        return categories_fault(self._metainfo.get('categories'), self.METAINFO['classes'], self._metainfo['classes'])

    def parse_data_info(self, info: dict) -> dict | list[dict]:
        """mmdet3d's; an entry that it cannot read is named."""
        try:
            parsed = super().parse_data_info(info)
        except Exception as error:  # whatever a damaged entry raises
            raise bad_sample(dict(info, ann_file=self.ann_file), self.metainfo_fault() or self.entry_fault(info, error)) from error
        if isinstance(parsed, dict):
            parsed['ann_file'] = self.ann_file
        return parsed

    def entry_fault(self, info: Any, error: Exception | None = None) -> Fault | None:
        """What is wrong with an entry that raised ``error``."""
        fault = sensor_fault(info, self.modality['use_lidar'], True, None if self.modality['use_camera'] else [])
        fault = fault or instances_fault(info, self.label_mapping, self.box_fields)
        return fault or Fault('the entry of the info file', f'cannot be read ({type(error).__name__}: {error})', MAKE_AGAIN)


@DATASETS.register_module()
class NuScenesDataset(NamesBadInfos, MMDet3DNuScenesDataset):
    """mmdet3d's ``NuScenesDataset``, arguments and all, that names the sample of its info file which it cannot read.

    Raises:
        BadSample: At construction; see :class:`NamesBadInfos`.
    """

    @property
    def box_fields(self) -> tuple[str, ...]:
        """What the entries of boxes need: velocity, and what tells whether they count."""
        return ('velocity', ) * self.with_velocity + (('bbox_3d_isvalid', ) if self.use_valid_flag else ('num_lidar_pts', ))
