"""Pictures of scenes and of training: needs torch, mmengine, numpy and matplotlib; mmdet3d's objects are only passed in."""

from bevfusion_plugin.visualization.box_lines import compose_image_augmentation
from bevfusion_plugin.visualization.detection_picture_hook import DetectionPictureHook
from bevfusion_plugin.visualization.report.training_report_hook import TrainingReportHook
from bevfusion_plugin.visualization.scene_pictures import SceneBoxes, draw_birds_eye_view, draw_cameras, scene_figure
from bevfusion_plugin.visualization.training_curves import read_scalars, save_training_curves

__all__ = [
    'DetectionPictureHook',
    'SceneBoxes',
    'TrainingReportHook',
    'compose_image_augmentation',
    'draw_birds_eye_view',
    'draw_cameras',
    'read_scalars',
    'save_training_curves',
    'scene_figure',
]
