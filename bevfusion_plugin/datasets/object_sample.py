"""mmdet3d's object pasting on every numpy."""
from __future__ import annotations

import numpy as np
from mmdet3d.datasets.transforms import ObjectSample as MMDet3DObjectSample

from bevfusion_plugin.registry import TRANSFORMS


@TRANSFORMS.register_module()
class ObjectSample(MMDet3DObjectSample):
    """mmdet3d's ``ObjectSample``, arguments and all, that also runs on numpy 1.24 to 1.26.

    mmdet3d 1.4.0 labels the pasted objects with ``np.long``, a name that those versions do not have. It is given back to them, with the
    type it has in numpy 2 on 64-bit Linux.
    """

    def __init__(self, *args, **kwargs) -> None:
        if 'long' not in vars(np):  # hasattr would make numpy warn of the name
            np.long = np.int64
        super().__init__(*args, **kwargs)
