"""A lidar + camera config without its cameras: the same lidar branch, head and recipe."""

from __future__ import annotations

from mmengine.config import Config

CAMERA_PARTS = ('img_backbone', 'img_neck', 'view_transform', 'fusion_layer')
IMAGE_STEPS = ('BEVLoadMultiViewImageFromFiles', 'ImageAug3D', 'GridMask')


def drop_cameras(cfg: Config) -> None:
    """Turn ``cfg`` into a lidar-only one in place: no camera branch is built, no image is read."""
    for name in CAMERA_PARTS:
        cfg.model.pop(name)
    for name in ('mean', 'std', 'bgr_to_rgb'):
        cfg.model.data_preprocessor.pop(name)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        dataset = loader.dataset
        while 'pipeline' not in dataset:
            dataset = dataset.dataset
        dataset.modality = dict(use_lidar=True, use_camera=False)
        dataset.pipeline = [without_images(step) for step in dataset.pipeline if step.type.split('.')[-1] not in IMAGE_STEPS]


def without_images(step: dict) -> dict:
    """A step of a pipeline that asks for no image."""
    if step['type'].split('.')[-1] == 'CheckSample':
        return dict(step, cameras=[])
    if step['type'] != 'Pack3DDetInputs':
        return step
    return dict(step, keys=[key for key in step['keys'] if key != 'img'])
