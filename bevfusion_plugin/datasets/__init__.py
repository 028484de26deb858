"""BEVFusion's data transforms, and mmdet3d's data-set wrappers where they need help."""
from bevfusion_plugin.datasets.cbgs_dataset import CBGSDataset
from bevfusion_plugin.datasets.grid_mask import GridMask
from bevfusion_plugin.datasets.image_aug_3d import ImageAug3D
from bevfusion_plugin.datasets.lidar_aug_3d import BEVFusionGlobalRotScaleTrans, BEVFusionRandomFlip3D
from bevfusion_plugin.datasets.loading import BEVLoadMultiViewImageFromFiles
from bevfusion_plugin.datasets.object_sample import ObjectSample

__all__ = [
    'BEVFusionGlobalRotScaleTrans', 'BEVFusionRandomFlip3D', 'BEVLoadMultiViewImageFromFiles', 'CBGSDataset',
    'GridMask', 'ImageAug3D', 'ObjectSample'
]
