"""Info files of a synthetic nuScenes in mmdet3d's format 2, as mmdet3d's converter writes them, without its 13 seconds."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
from mmdet3d.datasets import NuScenesDataset
from nuscenes import NuScenes
from pyquaternion import Quaternion

from bevfusion_plugin.synthetic_nuscenes import CAMERAS, CLASSES, LIDAR

NAMES = list(NuScenesDataset.METAINFO['classes'])
LABELS_OF = {item.category: NAMES.index(item.name) for item in CLASSES}
PREFIX = dict(pts='samples/LIDAR_TOP', sweeps='sweeps/LIDAR_TOP', **{name: f'samples/{name}' for name in CAMERAS})


def pose(record: dict) -> np.ndarray:
    """(4, 4) from the frame that a table's record describes to the one it stands in."""
    matrix = np.eye(4)
    matrix[:3, :3] = Quaternion(record['rotation']).rotation_matrix
    matrix[:3, 3] = record['translation']
    return matrix


def write_infos(root: Path) -> Path:
    """``nuscenes_infos_train.pkl`` and ``_val.pkl`` with every sample of ``root``, whatever its scene; the first is returned."""
    nusc = NuScenes('v1.0-mini', str(root), verbose=False)
    categories = {name: label for label, name in enumerate(NAMES)}
    infos = dict(
        metainfo=dict(categories=categories, dataset='nuscenes', version='v1.0-mini', info_version='1.1'),
        data_list=[entry(nusc, index, sample) for index, sample in enumerate(nusc.sample)],
    )
    for split in ('train', 'val'):
        (root / f'nuscenes_infos_{split}.pkl').write_bytes(pickle.dumps(infos))
    return root / 'nuscenes_infos_train.pkl'


def entry(nusc: NuScenes, index: int, sample: dict) -> dict:
    """One sample's."""
    lidar = nusc.get('sample_data', sample['data'][LIDAR])
    lidar2ego, ego2global = places(nusc, lidar)
    global2lidar = np.linalg.inv(ego2global @ lidar2ego)
    images = {}
    for name in CAMERAS:
        data = nusc.get('sample_data', sample['data'][name])
        cam2ego, cam_ego2global = places(nusc, data)
        images[name] = dict(
            img_path=Path(data['filename']).name,
            sample_data_token=data['token'],
            timestamp=data['timestamp'] / 1e6,
            cam2img=nusc.get('calibrated_sensor', data['calibrated_sensor_token'])['camera_intrinsic'],
            cam2ego=cam2ego.tolist(),
            lidar2cam=np.linalg.inv(global2lidar @ cam_ego2global @ cam2ego).tolist(),
        )
    points = dict(num_pts_feats=5, lidar_path=Path(lidar['filename']).name, lidar2ego=lidar2ego.tolist())
    found = dict(
        sample_idx=index,
        token=sample['token'],
        timestamp=lidar['timestamp'] / 1e6,
        ego2global=ego2global.tolist(),
        images=images,
        lidar_points=points,
        instances=[instance(nusc, token, global2lidar) for token in sample['anns']],
    )
    sweeps = [sweep(nusc, data, global2lidar) for data in earlier(nusc, lidar)]
    return dict(found, lidar_sweeps=sweeps) if sweeps else found


def places(nusc: NuScenes, data: dict) -> tuple[np.ndarray, np.ndarray]:
    """Sensor to vehicle and vehicle to world of a ``sample_data`` record."""
    return pose(nusc.get('calibrated_sensor', data['calibrated_sensor_token'])), pose(nusc.get('ego_pose', data['ego_pose_token']))


def earlier(nusc: NuScenes, data: dict) -> list[dict]:
    """Up to ten records of the same sensor before this one, the newest first."""
    found = []
    while data['prev'] and len(found) < 10:
        data = nusc.get('sample_data', data['prev'])
        found.append(data)
    return found


def sweep(nusc: NuScenes, data: dict, global2lidar: np.ndarray) -> dict:
    """An earlier point file; ``lidar2sensor`` is as mmdet3d's converter writes it: transposed rotation, negative shift."""
    lidar2ego, ego2global = places(nusc, data)
    matrix = global2lidar @ ego2global @ lidar2ego
    lidar2sensor = np.eye(4)
    lidar2sensor[:3, :3] = matrix[:3, :3].T
    lidar2sensor[:3, 3] = -matrix[:3, 3]
    return dict(
        timestamp=data['timestamp'] / 1e6,
        sample_data_token=data['token'],
        lidar_points=dict(lidar_path=data['filename'], lidar2sensor=lidar2sensor.tolist()),
    )


def instance(nusc: NuScenes, token: str, global2lidar: np.ndarray) -> dict:
    """One box: x, y, z, l, w, h, yaw in the lidar frame, z in its middle."""
    box = nusc.get('sample_annotation', token)
    centre = global2lidar[:3, :3] @ box['translation'] + global2lidar[:3, 3]
    turn = global2lidar[:3, :3] @ Quaternion(box['rotation']).rotation_matrix
    w, l, h = box['size']
    velocity = global2lidar[:3, :3] @ nusc.box_velocity(token)
    label = LABELS_OF[box['category_name']]
    return dict(
        bbox_3d=[*centre.tolist(), l, w, h, float(np.arctan2(turn[1, 0], turn[0, 0]))],
        bbox_label_3d=label,
        bbox_label=label,
        bbox_3d_isvalid=box['num_lidar_pts'] > 0,
        num_lidar_pts=box['num_lidar_pts'],
        num_radar_pts=0,
        velocity=velocity[:2].tolist(),
    )
