"""A small data set of somebody's own: points, pictures and info files as docs/custom_data.md describes them, and a config for it."""

from __future__ import annotations

import pickle
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CONFIGS = Path(__file__).parents[2] / 'configs'
CLASSES = ('forklift', 'pallet')
SIZES = {0: (2.4, 1.2, 2.0), 1: (1.2, 0.8, 0.3)}  # metres, by label
PICTURES = ((320, 180), (256, 192), (160, 120))  # width, height: no two cameras alike
SMALL = dict(
    point_cloud_range=[-14.4, -14.4, -3.0, 14.4, 14.4, 1.8],
    voxel_size=[0.3, 0.3, 0.2],
    image_size=[64, 96],
    samples_per_gpu=1,
    base_batch_size=1,
    num_workers=0,
    max_epochs=1,
    lr=1e-4,
)  # 96 x 96 x 24 voxels


def write_custom_data(root: Path, cameras: Sequence[str] = ('front',), samples: int = 2, features: int = 4, boxes_2d: bool = False) -> Path:
    """``root`` with ``samples`` frames in both splits; each has two boxes of points, one to a class, in front of the first
    camera, and with ``boxes_2d`` that camera's 2D boxes of them in ``cam_instances``."""
    rng = np.random.default_rng(0)
    entries = [_frame(root, rng, index, cameras, features) for index in range(samples)]
    for entry in entries if boxes_2d else ():
        name = cameras[0]
        entry['cam_instances'] = {name: [_box_2d(entry['images'][name], each['bbox_3d']) for each in entry['instances']]}
    infos = dict(metainfo=dict(categories={name: label for label, name in enumerate(CLASSES)}), data_list=entries)
    for split in ('train', 'val'):
        (root / f'custom_infos_{split}.pkl').write_bytes(pickle.dumps(infos))
    return root


def _frame(root: Path, rng: np.random.Generator, index: int, cameras: Sequence[str], features: int) -> dict[str, Any]:
    boxes = [[6 + index, 1.5, -1.0, *SIZES[0], 0.3], [5.0, -2.0, -1.8, *SIZES[1], -0.2]]
    inside = [rng.uniform(-0.45, 0.45, (60, 3)) * box[3:6] for box in boxes]
    points = np.concatenate(
        [rng.uniform([-14, -14, -2.1], [14, 14, -1.9], (400, 3)), *[_turned(cloud, box[6]) + box[:3] for cloud, box in zip(inside, boxes)]]
    )
    rows = np.concatenate([points, rng.uniform(0, 1, (len(points), features - 3))], axis=1).astype(np.float32)
    (root / 'points').mkdir(parents=True, exist_ok=True)
    rows.tofile(root / 'points' / f'{index:06}.bin')
    images = {name: _camera(root, rng, name, place, index) for place, name in enumerate(cameras)}
    instances = [dict(bbox_3d=box, bbox_label_3d=label, num_lidar_pts=60, velocity=[0.5, 0.0]) for label, box in enumerate(boxes)]
    entry = dict(sample_idx=index, lidar_points=dict(lidar_path=f'{index:06}.bin', num_pts_feats=features), instances=instances)
    return dict(entry, images=images) if cameras else entry


def _turned(points: np.ndarray, yaw: float) -> np.ndarray:
    cosine, sine = np.cos(yaw), np.sin(yaw)
    return points @ np.array([[cosine, sine, 0], [-sine, cosine, 0], [0, 0, 1]])


def _box_2d(camera: dict[str, Any], box: list[float]) -> dict[str, Any]:
    """As mmdet3d's converters write it: the outline's limits, and the box with its (x, y, z), length, height, width in the camera's frame."""
    signs = np.array(list(np.ndindex(2, 2, 2))) - 0.5
    lidar2cam = np.array(camera['lidar2cam'])
    corners, center = (
        place @ lidar2cam[:3, :3].T + lidar2cam[:3, 3] for place in (_turned(signs * box[3:6], box[6]) + box[:3], np.array(box[:3]))
    )
    pixels = corners @ np.array(camera['cam2img']).T
    pixels = pixels[:, :2] / pixels[:, 2:]
    return dict(bbox=[*pixels.min(axis=0).tolist(), *pixels.max(axis=0).tolist()], bbox_3d=[*center.tolist(), box[3], box[5], box[4], 0.0])


def _camera(root: Path, rng: np.random.Generator, name: str, place: int, index: int) -> dict[str, Any]:
    """The camera number ``place``, turned by a third of a circle from the one before; its picture is noise."""
    width, height = PICTURES[place % len(PICTURES)]
    folder = root / 'images' / name
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(60, 200, (height, width, 3), dtype=np.uint8)).save(folder / f'{index:06}.jpg')
    lidar2cam = np.eye(4)
    lidar2cam[:3, :3] = np.array([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]]) @ _turned(np.eye(3), -place * 2 * np.pi / 3).T
    lidar2cam[:3, 3] = 0, -0.2, -0.1
    return dict(
        img_path=f'{index:06}.jpg',
        height=height,
        width=width,
        lidar2cam=lidar2cam.tolist(),
        cam2img=[[0.6 * width, 0, width / 2], [0, 0.6 * width, height / 2], [0, 0, 1]],
    )


def custom_config(folder: Path, **settings: Any) -> Path:
    """A copy of configs/bevfusion_custom.py with these of its variables changed, as a user changes them; SMALL unless they say otherwise."""
    shutil.copytree(CONFIGS / '_base_', folder / '_base_', dirs_exist_ok=True)
    text = (CONFIGS / 'bevfusion_custom.py').read_text()
    for name, value in {**SMALL, 'class_names': list(CLASSES), **settings}.items():
        text, number = re.subn(rf'(?m)^{name} = .*?(?=  #|$)', lambda _: f'{name} = {value!r}', text, count=1)
        assert number == 1, f'bevfusion_custom.py has no variable {name}'
    path = folder / 'my_config.py'
    path.write_text(text)
    return path


def write_raw_kitti(root: Path) -> Path:
    """``root`` in KITTI's layout, one frame in all splits, without info files: what mmdet3d's converter starts from."""
    rng = np.random.default_rng(0)
    (root / 'ImageSets').mkdir(parents=True)
    for split in ('train', 'val', 'trainval', 'test'):
        (root / 'ImageSets' / f'{split}.txt').write_text('000000\n')
    cameras = [f'P{index}: 192 0 160 0 0 192 90 0 0 0 1 0' for index in range(4)]
    calibration = [
        *cameras,
        'R0_rect: 1 0 0 0 1 0 0 0 1',
        'Tr_velo_to_cam: 0 -1 0 0 0 0 -1 -0.08 1 0 0 -0.27',
        'Tr_imu_to_velo: 1 0 0 0 0 1 0 0 0 0 1 0',
    ]
    for part in ('training', 'testing'):
        for folder in ('calib', 'image_2', 'velodyne', 'label_2'):
            (root / part / folder).mkdir(parents=True)
        (root / part / 'calib/000000.txt').write_text('\n'.join(calibration) + '\n')
        Image.new('RGB', PICTURES[0], (90, 100, 110)).save(root / part / 'image_2/000000.png')
        car = rng.uniform([9, -3, -1.4, 0], [11, -1, -0.2, 1], (60, 4))
        np.concatenate([rng.uniform([1, -10, -2, 0], [14, 10, 1, 1], (500, 4)), car]).astype(np.float32).tofile(
            root / part / 'velodyne/000000.bin'
        )
    (root / 'training/label_2/000000.txt').write_text('Car 0.00 0 -1.5 185 90 225 125 1.5 1.6 3.9 1.8 1.5 10.0 -1.6\n')
    return root


def write_kitti_data(root: Path) -> Path:
    """``root`` in KITTI's layout with the info files of mmdet3d's converter: one frame, one of four cameras with a picture, boxes in its frame."""
    rng = np.random.default_rng(0)
    cam2img = [[192.0, 0, 160, 0], [0, 192, 90, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    lidar2cam = [[0.0, -1, 0, 0], [0, 0, -1, -0.08], [1, 0, 0, -0.27], [0, 0, 0, 1]]
    for folder in ('velodyne', 'image_2'):
        (root / 'training' / folder).mkdir(parents=True)
    rng.uniform([1, -10, -2, 0], [14, 10, 1, 1], (500, 4)).astype(np.float32).tofile(root / 'training/velodyne/000000.bin')
    Image.new('RGB', PICTURES[0], (90, 100, 110)).save(root / 'training/image_2/000000.png')
    cameras = {name: dict(cam2img=cam2img) for name in ('CAM0', 'CAM1', 'CAM2', 'CAM3')}
    cameras['CAM2'].update(
        img_path='000000.png', height=180, width=320, lidar2cam=lidar2cam, lidar2img=(np.array(cam2img) @ lidar2cam).tolist()
    )
    box = dict(
        bbox_3d=[1.8, 1.5, 10.0, 3.9, 1.6, 1.5, -1.6],
        bbox_label_3d=2,
        bbox_label=2,
        bbox=[190.0, 90, 240, 120],
        depth=10.0,
        center_2d=[215.0, 105],
        num_lidar_pts=9,
        difficulty=0,
        truncated=0.0,
        occluded=0,
        alpha=0.0,
        score=0.0,
        index=0,
        group_id=0,
    )
    info = dict(
        sample_idx=0,
        images=dict(cameras, R0_rect=np.eye(4).tolist()),
        instances=[box],
        lidar_points=dict(num_pts_feats=4, lidar_path='000000.bin', Tr_velo_to_cam=lidar2cam, Tr_imu_to_velo=np.eye(4).tolist()),
    )
    categories = dict(Pedestrian=0, Cyclist=1, Car=2, Van=3, Truck=4, Person_sitting=5, Tram=6, Misc=7)
    for split in ('train', 'val'):
        (root / f'kitti_infos_{split}.pkl').write_bytes(pickle.dumps(dict(metainfo=dict(categories=categories), data_list=[info])))
    return root
