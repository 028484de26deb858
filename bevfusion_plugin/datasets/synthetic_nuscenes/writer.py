"""Writes a synthetic nuScenes to a folder, keyframe by keyframe, and looks after that folder."""
from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image
from rich.progress import track

from .keyframe import simulate_keyframe
from .lidar import NUM_BEAMS, Scan
from .rig import LIDAR, build_rig
from .settings import KEYFRAME_PERIOD, VERSION, Settings
from .tables import Measured, SceneRecording, build_tables, map_file, sensor_file
from .world import World, build_world

MARKER = 'synthetic_nuscenes.json'
_FORMAT = 1  # raise when the same settings give other bytes than before
_OWN_FOLDERS = (VERSION, 'samples', 'sweeps', 'maps')
# What mmdet3d's converter derives from them; stale once the data changes.
_DERIVED = ('nuscenes_infos_train.pkl', 'nuscenes_infos_val.pkl', 'nuscenes_dbinfos_train.pkl', 'nuscenes_gt_database')
_JPEG_QUALITY = 90
_MAP_CELL = 0.1  # metres a pixel; the devkit takes no other
_MAP_BORDER = 110.0
