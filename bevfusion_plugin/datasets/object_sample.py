"""mmdet3d's object pasting on every numpy, each loader worker with objects of its own."""
from __future__ import annotations

import numpy as np
from mmdet3d.datasets.transforms import ObjectSample as MMDet3DObjectSample
from torch.utils.data import get_worker_info

from bevfusion_plugin.registry import TRANSFORMS


@TRANSFORMS.register_module()
class ObjectSample(MMDet3DObjectSample):
    """mmdet3d's ``ObjectSample``, arguments and all, that also runs on numpy 1.24 to 1.26.

    mmdet3d 1.4.0 labels the pasted objects with ``np.long``, a name that those versions do not have. It is given back to them, with the
    type it has in numpy 2 on 64-bit Linux.

    mmdet3d shuffles the database once, before the loader's workers start, so all of them, on every rank and again after each restart,
    would paste the same first objects. Here each worker shuffles anew, by its own numpy seed.
    """

    def __init__(self, *args, **kwargs) -> None:
        if 'long' not in vars(np):  # hasattr would make numpy warn of the name
            np.long = np.int64
        super().__init__(*args, **kwargs)
        self._worker_seed: int | None = None  # of the worker whose order the samplers have

    def transform(self, input_dict: dict) -> dict:
        """mmdet3d's, after the first call in a worker has shuffled the database."""
        self.shuffle_in_new_worker()
        return super().transform(input_dict)

    def shuffle_in_new_worker(self) -> None:
        """Give the samplers an order of this worker's own, if they have another's."""
        worker = get_worker_info()
        if worker is not None and worker.seed != self._worker_seed:
            self._worker_seed = worker.seed
            for sampler in self.db_sampler.sampler_dict.values():
                sampler._reset()
