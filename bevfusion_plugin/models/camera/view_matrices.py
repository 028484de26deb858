"""The matrices a camera branch needs, gathered from the samples' meta dicts."""
from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bevfusion_plugin.ops.packed_copy import copy_together

# What the lidar augmentations record; present means that the points are no longer in the recorded frame.
_LIDAR_AUG_TRACES = ('pcd_rotation', 'pcd_trans', 'pcd_scale_factor')


class ViewMatrices(NamedTuple):
    """Batched 4x4 matrices, in the order of the view transform's arguments (B samples, N cameras)."""
    lidar2image: Tensor  # (B, N, 4, 4)
    camera_intrinsics: Tensor  # (B, N, 4, 4)
    camera2lidar: Tensor  # (B, N, 4, 4)
    img_aug_matrix: Tensor  # (B, N, 4, 4)
    lidar_aug_matrix: Tensor  # (B, 4, 4)


class ViewGeometry(NamedTuple):
    """What the view transform computes with: the matrices, and the inverses of the linear parts that it needs."""
    lidar2image: Tensor  # (B, N, 4, 4)
    image2camera: Tensor  # (B, N, 3, 3), inverse of the intrinsics
    camera2lidar: Tensor  # (B, N, 4, 4)
    img_aug: Tensor  # (B, N, 4, 4)
    img_aug_inverse: Tensor  # (B, N, 3, 3)
    lidar_aug: Tensor  # (B, 4, 4)
    lidar_aug_inverse: Tensor  # (B, 3, 3)


def stack_view_matrices(metas: Sequence[dict], training: bool) -> ViewMatrices:
    """The batch's matrices as float32 tensors on the host, where their inverses cost nothing: see ``view_geometry``.

    Args:
        metas: One meta dict per sample with ``lidar2img``, ``cam2img``, ``cam2lidar``, ``img_aug_matrix`` (N matrices each) and
            ``lidar_aug_matrix`` (one).
        training: Whether this is a training step.

    Raises:
        ValueError: If a matrix is missing. Only ``lidar_aug_matrix`` may be absent, when testing on points that no
            recorded augmentation has moved (the reference's test pipeline); it is the identity then.
    """

    def stack(key: str) -> Tensor:
        return torch.from_numpy(np.stack([np.asarray(_required(meta, key), dtype=np.float32) for meta in metas]))

    lidar_aug = np.stack([_lidar_aug_matrix(meta, training) for meta in metas])
    return ViewMatrices(stack('lidar2img'), stack('cam2img'), stack('cam2lidar'), stack('img_aug_matrix'),
                        torch.from_numpy(lidar_aug))


def view_geometry(matrices: ViewMatrices, device: torch.device) -> ViewGeometry:
    """Matrices and inverses on ``device``, brought there by one copy.

    The inverses are taken where the matrices lie. On a GPU each would make the host wait, to see whether the matrix was singular.
    """
    lidar2image, camera_intrinsics, camera2lidar, img_aug, lidar_aug = matrices
    image2camera, img_aug_inverse, lidar_aug_inverse = (
        torch.inverse(matrix[..., :3, :3]) for matrix in (camera_intrinsics, img_aug, lidar_aug))
    return ViewGeometry(*copy_together(
        [lidar2image, image2camera, camera2lidar, img_aug, img_aug_inverse, lidar_aug, lidar_aug_inverse], device))


def _lidar_aug_matrix(meta: dict, training: bool) -> np.ndarray:
    if 'lidar_aug_matrix' not in meta and not training and not any(key in meta for key in _LIDAR_AUG_TRACES):
        return np.eye(4, dtype=np.float32)
    return np.asarray(_required(meta, 'lidar_aug_matrix'), dtype=np.float32)


def _required(meta: dict, key: str) -> object:
    if key not in meta:
        raise ValueError(
            f'{key!r} is missing in the meta info of sample {meta.get("sample_idx", "?")}; the camera branch would put image '
            f'features in the wrong place without it. Add {key!r} to meta_keys of Pack3DDetInputs, load images with '
            'bevfusion_plugin.BEVLoadMultiViewImageFromFiles and augment with bevfusion_plugin.ImageAug3D, '
            'BEVFusionGlobalRotScaleTrans and BEVFusionRandomFlip3D, which record it')
    return meta[key]
