"""A small nuScenes of moving boxes: seeded, in the true format, read by the official devkit and by mmdet3d.

``create_synthetic_nuscenes(root, Settings(...))`` writes it. What the sensors saw, with the solid behind
every lidar point and every pixel, comes from ``simulate_keyframe``. No part of real nuScenes is in it.

Limits: every moving object keeps its velocity, all sensors of a keyframe look at the same instant, no radar
(``num_radar_pts`` is 0), no camera pictures between keyframes. At an ``image_scale`` below 1 the 2D boxes that
mmdet3d's converter stores as ``cam_instances`` are not cut at the picture's border (it assumes 1600 x 900);
BEVFusion does not read them.
"""

from bevfusion_plugin.synthetic_nuscenes.catalog import CLASSES, IMAGE_ONLY_PAIR, attribute_name, visibility_token
from bevfusion_plugin.synthetic_nuscenes.folder import MARKER, is_complete, required_bytes
from bevfusion_plugin.synthetic_nuscenes.keyframe import Keyframe, build_scene, sensor_view, simulate_keyframe
from bevfusion_plugin.synthetic_nuscenes.lidar import GROUND
from bevfusion_plugin.synthetic_nuscenes.rig import CAMERAS, LIDAR, Sensor
from bevfusion_plugin.synthetic_nuscenes.settings import KEYFRAME_PERIOD, SCENE_NAMES, VERSION, Settings
from bevfusion_plugin.synthetic_nuscenes.tables import sensor_file, token
from bevfusion_plugin.synthetic_nuscenes.world import World
from bevfusion_plugin.synthetic_nuscenes.writer import create_synthetic_nuscenes

__all__ = [
    'CAMERAS',
    'CLASSES',
    'GROUND',
    'IMAGE_ONLY_PAIR',
    'KEYFRAME_PERIOD',
    'Keyframe',
    'LIDAR',
    'MARKER',
    'SCENE_NAMES',
    'Sensor',
    'Settings',
    'VERSION',
    'World',
    'attribute_name',
    'build_scene',
    'create_synthetic_nuscenes',
    'is_complete',
    'required_bytes',
    'sensor_file',
    'sensor_view',
    'simulate_keyframe',
    'token',
    'visibility_token',
]
