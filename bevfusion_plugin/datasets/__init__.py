"""BEVFusion's data transforms and a metric for data without nuScenes tables."""
from .cbgs_dataset import CBGSDataset
from .center_distance_metric import CenterDistanceMetric
from .grid_mask import GridMask
from .image_aug_3d import ImageAug3D
from .lidar_aug_3d import BEVFusionGlobalRotScaleTrans, BEVFusionRandomFlip3D
from .loading import BEVLoadMultiViewImageFromFiles
from .object_sample import ObjectSample

__all__ = [
    'BEVFusionGlobalRotScaleTrans', 'BEVFusionRandomFlip3D', 'BEVLoadMultiViewImageFromFiles', 'CBGSDataset',
    'CenterDistanceMetric', 'GridMask', 'ImageAug3D', 'ObjectSample'
]
