"""A small batch for a BEVFusion config, made up without any data: random images, a lidar scene, boxes in it.

Only its sizes matter, and how voxels lie side by side: a sparse encoder's sites depend on that. The scene has the density of ten
sweeps of nuScenes, so that a sector of it has as many sites for each voxel as the whole.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from torch import Tensor

from bevfusion_plugin.doctor.reading.config import innermost_dataset
from bevfusion_plugin.doctor.reading.pipelines import Pipeline

NO_CAMERAS = ('pts', 'sweeps', 'img')  # keys of data_prefix that name no camera
BOXES = 40  # ground-truth boxes a sample; nuScenes has about 35


FEATURES = 5  # of nuScenes' points: x, y, z, intensity, time; for a model that encodes none


def image_size_of(cfg: Config) -> tuple[int, int] | None:
    """Height and width of the network's input images; None without cameras."""
    transform = cfg.model.get('view_transform')
    return None if transform is None else tuple(transform['image_size'])


def cameras_of(cfg: Config) -> int:
    """Cameras of a sample: those that the training pipeline loads by name, else those of the training set's data_prefix; 0 where the
    model has no camera branch.

    Raises:
        ValueError: If the model has a camera branch and the data set names no camera.
    """
    if image_size_of(cfg) is None:
        return 0
    dataset = innermost_dataset(cfg)
    loaders = Pipeline('train', '', tuple(dataset.get('pipeline') or ())).named('BEVLoadMultiViewImageFromFiles')
    named = loaders[0].get('cameras') if loaders else None
    cameras = len(named or [key for key in dataset.get('data_prefix') or {} if key not in NO_CAMERAS])
    if not cameras:
        raise ValueError(
            f'the model has a camera branch, but data_prefix of the training set is {dataset.get("data_prefix")}; '
            "name the cameras there, or in BEVLoadMultiViewImageFromFiles(cameras=[...])"
        )
    return cameras


def real_sizes(cfg: Config, samples: int) -> dict[str, float]:
    """Sizes of a real micro-batch of ``samples``: samples, image pixels, and voxels if every sample fills ``max_voxels``."""
    height, width = image_size_of(cfg) or (0, 0)
    most = cfg.model.data_preprocessor.voxelize_cfg['max_voxels']
    voxels = most if isinstance(most, int) else most[0]
    return dict(samples=samples, pixels=samples * cameras_of(cfg) * height * width, voxels=samples * voxels)


def lidar_sweeps(share: float, channels: int, generator: torch.Generator, sweeps: int = 10) -> Tensor:
    """Points (P, channels) of a made-up scene with the density of nuScenes: ground, and walls at 8 to 50 m.

    Args:
        share: Sector of the full turn, 0 to 1.
        channels: x, y, z (metres), then whatever: random numbers.
        generator: Source of randomness.
        sweeps: Sweeps of 32 beams and 1084 steps a turn, each 0.3 m further on (6 m/s).
    """
    steps, beams, height = max(1, round(1084 * share)), 32, 1.84
    walls = 8 + 42 * torch.rand(max(1, round(90 * share)), generator=generator)  # one a 4 degrees
    azimuth = (torch.arange(steps) + 0.5) * (2 * math.pi / 1084)
    slope = torch.linspace(-30.67, 10.67, beams).deg2rad().tan()
    wall = walls[(azimuth * 90 / (2 * math.pi)).long().clamp(max=len(walls) - 1)]
    ground = torch.where(slope < 0, -height / slope, math.inf)
    distance = torch.minimum(wall[:, None], ground)  # (steps, beams)
    points = torch.stack([distance * azimuth.cos()[:, None], distance * azimuth.sin()[:, None], distance * slope], dim=-1)
    on_ground = (ground < wall[:, None])[points[..., 2] < 3]  # walls are 3 m + 1.84 m high
    points = points[points[..., 2] < 3].repeat(sweeps, 1, 1)  # (sweeps, P, 3)
    points[..., 0] += on_ground * 0.3 * torch.arange(sweeps)[:, None]  # rings on the ground move with the car, walls stay
    points = (points + 0.02 * torch.randn(points.shape, generator=generator)).flatten(0, 1)
    return torch.cat([points, torch.rand(len(points), channels - 3, generator=generator)], dim=1)


def synthetic_batch(cfg: Config, samples: int, cameras: int, share: float, seed: int = 0) -> dict[str, Any]:
    """A batch as the data preprocessor takes it: random images, a made-up lidar scene and boxes in it.

    Args:
        cfg: The whole config.
        samples: Samples, B.
        cameras: Cameras of a sample, looking outwards in all directions; without effect on a lidar-only model.
        share: Sector of the lidar's full turn, 0 to 1.
        seed: Of the randomness.
    """
    generator = torch.Generator().manual_seed(seed)
    channels = (cfg.model.pts_middle_encoder or {}).get('in_channels', FEATURES)
    inputs: dict[str, Any] = dict(points=[lidar_sweeps(share, channels, generator) for _ in range(samples)])
    metas: dict[str, Any] = dict(lidar_aug_matrix=np.eye(4))
    size = image_size_of(cfg)
    if size is not None:
        inputs['img'] = [255 * torch.rand(cameras, 3, *size, generator=generator) for _ in range(samples)]
        metas.update(surround_matrices(cameras, size))
    return dict(inputs=inputs, data_samples=[_sample(cfg, metas, generator) for _ in range(samples)])


def surround_matrices(cameras: int, image_size: tuple[int, int]) -> dict[str, np.ndarray]:
    """The matrices (N, 4, 4) of N cameras at the lidar's place, evenly round it, with 90 degrees from left to right."""
    height, width = image_size
    intrinsic = np.array([[width / 2, 0, width / 2, 0], [0, width / 2, height / 2, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    yaws = 2 * np.pi * np.arange(cameras) / cameras
    # Columns: where the camera's right, down and forward point in the lidar frame.
    cam2lidar = np.stack(
        [[[np.sin(yaw), 0, np.cos(yaw), 0], [-np.cos(yaw), 0, np.sin(yaw), 0], [0, -1, 0, 0], [0, 0, 0, 1]] for yaw in yaws]
    )
    cam2img = np.broadcast_to(intrinsic, (cameras, 4, 4))
    return dict(
        cam2img=cam2img,
        cam2lidar=cam2lidar,
        lidar2img=cam2img @ np.linalg.inv(cam2lidar),
        img_aug_matrix=np.broadcast_to(np.eye(4), (cameras, 4, 4)),
    )


def _sample(cfg: Config, metas: Mapping[str, Any], generator: torch.Generator) -> Any:
    from mmdet3d.structures import Det3DDataSample, LiDARInstance3DBoxes
    from mmengine.structures import InstanceData

    lower, upper = (torch.tensor(cfg.model.data_preprocessor.voxelize_cfg['point_cloud_range'][at : at + 2]) for at in (0, 3))
    boxes = torch.rand(BOXES, 9, generator=generator)
    boxes[:, :2] = lower + (upper - lower) * boxes[:, :2]
    boxes[:, 2] = -1.84
    boxes[:, 3:6] = boxes[:, 3:6] + torch.tensor([4.0, 1.5, 1.5])
    sample = Det3DDataSample(metainfo=dict(box_type_3d=LiDARInstance3DBoxes, **metas))
    labels = torch.arange(BOXES) % cfg.model.bbox_head['num_classes']
    sample.gt_instances_3d = InstanceData(bboxes_3d=LiDARInstance3DBoxes(boxes, box_dim=9), labels_3d=labels)
    return sample
