"""Class-balanced sampling that also serves small data sets."""

from __future__ import annotations

import numpy as np
from mmdet3d.datasets import CBGSDataset as MMDet3DCBGSDataset
from mmengine.dataset import BaseDataset

from bevfusion_plugin.plan.checked_settings import settings_dict, switch
from bevfusion_plugin.registry import DATASETS


@DATASETS.register_module()
class CBGSDataset(MMDet3DCBGSDataset):
    """mmdet3d's class-balanced wrapper, also for data sets in which a class is absent or nearly so.

    mmdet3d divides by the number of samples of every class and so fails when one does not occur, as on a single clip; and on a
    handful of samples the rounded-down shares can all be 0. On nuScenes both draw the same samples from the same seed.

    Raises:
        ValueError: If ``lazy_init`` is no switch.

    Source:
        Class-balanced Grouping and Sampling, Zhu et al. 2019 (arXiv 1908.09492), section 3.1.
    """

    def __init__(self, dataset: BaseDataset | dict, lazy_init: bool = False) -> None:
        if not isinstance(dataset, BaseDataset):
            settings_dict('dataset', dataset, 'type')
        super().__init__(dataset, switch('lazy_init', lazy_init))

    def _get_sample_indices(self, dataset: BaseDataset) -> list[int]:
        num_classes = len(self.metainfo['classes'])
        samples_of: list[list[int]] = [[] for _ in range(num_classes)]
        for index in range(len(dataset)):
            for category in dataset.get_cat_ids(index):
                if category != -1:  # -1: a category that is not trained
                    samples_of[category].append(index)
        total = sum(map(len, samples_of))
        indices: list[int] = []
        for samples in filter(None, samples_of):
            ratio = (1.0 / num_classes) / (len(samples) / total)
            indices += np.random.choice(samples, max(1, int(len(samples) * ratio))).tolist()
        if not indices:
            raise ValueError(
                f'none of the {len(dataset)} samples has a box of the classes {self.metainfo["classes"]}; check '
                'ann_file, metainfo and use_valid_flag'
            )
        return indices
