"""mmdet3d's data sets, with the sample named that they cannot read."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mmdet3d.datasets import NuScenesDataset as MMDet3DNuScenesDataset
from mmengine.dataset import BaseDataset

from bevfusion_plugin.datasets.checks.fault import MAKE_AGAIN, BadSample, Fault, bad_sample
from bevfusion_plugin.datasets.checks.infos import categories_fault, instances_fault, sensor_fault
from bevfusion_plugin.datasets.checks.settings import check_dataset_settings, check_indices
from bevfusion_plugin.registry import DATASETS


class NamesBadInfos(BaseDataset):
    """Put in front of one of mmdet3d's ``Det3DDataset`` classes: what its info file has wrong is named, with file and sample.

    ``class MyDataset(NamesBadInfos, Det3DDataset)``. It costs nothing where the file is in order: an entry is looked at if mmdet3d
    could not read it. Category names and tokens are compared once.

    Raises:
        ValueError: At construction, if a setting cannot work, or if ``metainfo.classes`` names a class that the data set does not know.
        BadSample: At construction, if an entry of the info file cannot be read, or the file itself, or if its categories are
            numbered otherwise than the data set's.
    """

    def __init__(self, *args, **kwargs) -> None:
        settings = inspect.signature(super().__init__).bind(*args, **kwargs).arguments
        settings.update(settings.pop('kwargs', {}))
        check_dataset_settings(self.METAINFO['classes'], **settings)
        self.show_ins_var = settings.get('show_ins_var', False)  # mmdet3d sets it only without lazy_init, and reads it always
        super().__init__(*args, **kwargs)

    def filter_data(self) -> list[dict]:
        """The data set's own, with ``indices`` compared to what is left."""
        entries = super().filter_data()
        check_indices(self._indices, len(entries))
        return entries

    def load_data_list(self) -> list[dict]:
        """mmdet3d's, with a file that cannot be read, other categories and repeated samples named."""
        try:
            entries = super().load_data_list()
        except (BadSample, FileNotFoundError):
            raise
        except Exception as error:  # whatever a damaged pickle raises
            raise BadSample(f'the info file {self.ann_file} cannot be read ({type(error).__name__}: {error}); {MAKE_AGAIN}') from error
        fault = numbering_fault(self)
        if fault:
            raise BadSample(f'{self.ann_file}: {fault.where} {fault.what}; {fault.mend}')
        if getattr(self, 'load_type', 'frame_based') == 'frame_based':  # else the cameras of a frame are entries with one token
            for index, fault in repeated_tokens(entries):
                raise bad_sample(dict(entries[index], sample_idx=index), fault)
        return entries

    def parse_data_info(self, info: dict) -> dict | list[dict]:
        """mmdet3d's; an entry that it cannot read is named."""
        try:
            parsed = super().parse_data_info(info)
        except Exception as error:  # whatever a damaged entry raises
            raise unreadable(self, info, error) from error
        if isinstance(parsed, dict):
            parsed['ann_file'] = self.ann_file
        return parsed


def numbering_fault(dataset: BaseDataset) -> Fault | None:
    """What is wrong with the categories of the info file that ``dataset`` has read, if that names them."""
    return categories_fault(dataset.metainfo.get('categories'), dataset.METAINFO['classes'], dataset.metainfo['classes'])


def unreadable(dataset: BaseDataset, info: Any, error: Exception) -> BadSample:
    """The error that says why one of mmdet3d's data sets raised ``error`` at an entry of its info file."""
    if not isinstance(info, Mapping):
        return BadSample(f'{dataset.ann_file}: an entry is {type(info).__name__} and must be a dict; {MAKE_AGAIN}')
    fault = numbering_fault(dataset) or sensor_fault(
        info, dataset.modality['use_lidar'], True, None if dataset.modality['use_camera'] else []
    )
    fields = ('velocity',) * getattr(dataset, 'with_velocity', False)
    if hasattr(dataset, 'use_valid_flag'):
        fields += ('bbox_3d_isvalid',) if dataset.use_valid_flag else ('num_lidar_pts',)
    fault = fault or instances_fault(info, dataset.label_mapping, fields)
    fault = fault or Fault('the entry of the info file', f'cannot be read ({type(error).__name__}: {error})', MAKE_AGAIN)
    return bad_sample(dict(info, ann_file=dataset.ann_file), fault)


def repeated_tokens(infos: Iterable[Mapping[str, Any]]) -> Iterator[tuple[int, Fault]]:
    """Each entry whose token is that of an earlier one, with what is wrong about it."""
    first: dict[str, int] = {}
    for index, info in enumerate(infos):
        token = info.get('token')
        if token is not None and first.setdefault(token, index) != index:
            yield (
                index,
                Fault(
                    'token of the info file',
                    f'is that of sample {first[token]} too: it would be counted twice',
                    f'take one of them out, or {MAKE_AGAIN}',
                ),
            )


@DATASETS.register_module()
class NuScenesDataset(NamesBadInfos, MMDet3DNuScenesDataset):
    """mmdet3d's ``NuScenesDataset``, arguments and all, that names the sample of its info file which it cannot read.

    Raises:
        BadSample: At construction; see :class:`NamesBadInfos`.
    """
