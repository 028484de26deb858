"""BEVFusion's data transforms, and mmdet3d's data-set wrappers where they need help."""

from bevfusion_plugin.datasets.cbgs_dataset import CBGSDataset
from bevfusion_plugin.datasets.check_sample import CheckSample
from bevfusion_plugin.datasets.checks.fault import BadSample
from bevfusion_plugin.datasets.custom_3d_dataset import Custom3DDataset
from bevfusion_plugin.datasets.grid_mask import GridMask
from bevfusion_plugin.datasets.image_aug_3d import ImageAug3D
from bevfusion_plugin.datasets.lidar_aug_3d import BEVFusionGlobalRotScaleTrans, BEVFusionRandomFlip3D
from bevfusion_plugin.datasets.loading import BEVLoadMultiViewImageFromFiles
from bevfusion_plugin.datasets.nuscenes_dataset import NamesBadInfos, NuScenesDataset
from bevfusion_plugin.datasets.object_sample import ObjectSample
from bevfusion_plugin.datasets.skip_bad_samples import SkipBadSamples

__all__ = [
    'BEVFusionGlobalRotScaleTrans',
    'BEVFusionRandomFlip3D',
    'BEVLoadMultiViewImageFromFiles',
    'BadSample',
    'CBGSDataset',
    'CheckSample',
    'Custom3DDataset',
    'GridMask',
    'ImageAug3D',
    'NamesBadInfos',
    'NuScenesDataset',
    'ObjectSample',
    'SkipBadSamples',
]
