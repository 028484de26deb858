"""Metrics beside those of mmdet3d, and nuScenes' where it needs help."""

from bevfusion_plugin.evaluation.center_distance_metric import CenterDistanceMetric
from bevfusion_plugin.evaluation.nuscenes_metric import NuScenesMetric

__all__ = ['CenterDistanceMetric', 'NuScenesMetric']
