"""Metrics beside those of mmdet3d."""
from bevfusion_plugin.evaluation.center_distance_metric import CenterDistanceMetric

__all__ = ['CenterDistanceMetric']
