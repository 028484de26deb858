"""The matrices a camera branch needs, gathered from the samples' meta dicts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from bevfusion_plugin.ops.packed_copy import copy_together

# What lidar augmentations record; set means that the points are no longer in the recorded frame.
_LIDAR_AUG_TRACES = ('pcd_rotation', 'pcd_trans', 'pcd_scale_factor', 'pcd_horizontal_flip', 'pcd_vertical_flip')
_MIRRORS = dict(HF=(1.0, -1.0, 1.0), VF=(-1.0, 1.0, 1.0))  # what horizontal and vertical do to x, y, z in the lidar frame
_OURS = ['R', 'T', 'S']  # what BEVFusionGlobalRotScaleTrans appends to transformation_3d_flow; BEVFusionRandomFlip3D appends nothing


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
        ValueError: If a matrix is missing. Only ``lidar_aug_matrix`` may be absent, when testing: it is the identity where no
            augmentation has left a trace (the reference's test pipeline), and what mmdet3d's own transforms did, if
            ``transformation_3d_flow`` tells in which order. Beside a ``lidar_aug_matrix`` those are an error.
    """

    def stack(key: str) -> Tensor:
        return torch.from_numpy(np.stack([np.asarray(_required(meta, key), dtype=np.float32) for meta in metas]))

    lidar_aug = np.stack([_lidar_aug_matrix(meta, training) for meta in metas])
    return ViewMatrices(stack('lidar2img'), stack('cam2img'), stack('cam2lidar'), stack('img_aug_matrix'), torch.from_numpy(lidar_aug))


def view_geometry(matrices: ViewMatrices, device: torch.device) -> ViewGeometry:
    """Matrices and inverses on ``device``, brought there by one copy.

    The inverses are taken where the matrices lie. On a GPU each would make the host wait, to see whether the matrix was singular.
    """
    lidar2image, camera_intrinsics, camera2lidar, img_aug, lidar_aug = matrices
    image2camera, img_aug_inverse, lidar_aug_inverse = (
        torch.inverse(matrix[..., :3, :3]) for matrix in (camera_intrinsics, img_aug, lidar_aug)
    )
    return ViewGeometry(
        *copy_together([lidar2image, image2camera, camera2lidar, img_aug, img_aug_inverse, lidar_aug, lidar_aug_inverse], device)
    )


def _lidar_aug_matrix(meta: dict, training: bool) -> np.ndarray:
    flow = list(meta.get('transformation_3d_flow') or ())
    if 'lidar_aug_matrix' in meta:
        if flow != _OURS * (len(flow) // 3):
            raise ValueError(
                f'sample {meta.get("sample_idx", "?")}: the points went through {", ".join(flow)} (transformation_3d_flow), of which '
                'lidar_aug_matrix knows only R, T, S in this order; use bevfusion_plugin.BEVFusionGlobalRotScaleTrans and '
                "BEVFusionRandomFlip3D in place of mmdet3d's GlobalRotScaleTrans and RandomFlip3D"
            )
    elif not training and (flow or not any(_is_set(meta.get(trace)) for trace in _LIDAR_AUG_TRACES)):
        return matrix_of_flow(flow, meta)
    return np.asarray(_required(meta, 'lidar_aug_matrix'), dtype=np.float32)


def matrix_of_flow(flow: Sequence[str], meta: dict) -> np.ndarray:
    """The (4, 4) float32 matrix that leads column vectors from the lidar frame as recorded to that which mmdet3d's transforms left.

    Args:
        flow: ``transformation_3d_flow``, in the order applied: R rotation, S scale, T translation, HF and VF mirrors of y and x.
        meta: Holds ``pcd_rotation`` (acts on row vectors), ``pcd_scale_factor`` and ``pcd_trans`` for R, S and T.

    Raises:
        ValueError: If a step is unknown, comes twice with numbers of which the meta has only the last, or its number is missing.
    """
    matrix = np.eye(4)
    for name in flow:
        step = np.eye(4)
        if name in _MIRRORS:
            step[:3, :3] = np.diag(_MIRRORS[name])
        elif name not in ('R', 'S', 'T') or flow.count(name) > 1:
            raise ValueError(
                f'sample {meta.get("sample_idx", "?")}: the points went through {", ".join(flow)} (transformation_3d_flow), and '
                f'what {name} did is not known; use bevfusion_plugin.BEVFusionGlobalRotScaleTrans, which records it'
            )
        elif name == 'R':
            step[:3, :3] = np.asarray(_required(meta, 'pcd_rotation'), dtype=np.float64).T
        elif name == 'S':
            step[:3, :3] *= _required(meta, 'pcd_scale_factor')
        else:
            step[:3, 3] = _required(meta, 'pcd_trans')
        matrix = step @ matrix
    return matrix.astype(np.float32)


def _is_set(trace: object) -> bool:
    return trace is not None and trace is not False


def _required(meta: dict, key: str) -> Any:
    if key not in meta:
        raise ValueError(
            f'{key!r} is missing in the meta info of sample {meta.get("sample_idx", "?")}; the camera branch would put image '
            f'features in the wrong place without it. Add {key!r} to meta_keys of Pack3DDetInputs, load images with '
            'bevfusion_plugin.BEVLoadMultiViewImageFromFiles and augment with bevfusion_plugin.ImageAug3D, '
            'BEVFusionGlobalRotScaleTrans and BEVFusionRandomFlip3D, which record it'
        )
    return meta[key]
