"""The lines of boxes as a camera sees them, from plain arrays.

Letters: n boxes, N cameras, H x W image. Lidar frame, metres. The corners of a box are in mmdet3d's order
(x0y0z0, x0y0z1, x0y1z1, x0y1z0, then the same at x1); its heading points from x0 to x1.
"""

from __future__ import annotations

import numpy as np

EDGES = np.array([(0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7)])
FRONT_CROSS = np.array([(4, 6), (5, 7)])  # diagonals of the front face
NEAR_PLANE = 0.1  # metres in front of the camera; edges are cut there


def compose_image_augmentation(lidar2img: np.ndarray, img_aug_matrix: np.ndarray) -> np.ndarray:
    """Projection (N, 4, 4) from the lidar frame to the augmented images.

    Args:
        lidar2img: (N, 4, 4), lidar frame to (u d, v d, d, 1) of the original image, d the depth.
        img_aug_matrix: (N, 4, 4), original (u, v, d, 1) to augmented: it acts after the division by depth, so its shift is
            multiplied by the depth here. Its third row and column are the identity's.
    """
    homogeneous = np.tile(np.eye(4), (len(img_aug_matrix), 1, 1))
    homogeneous[:, :2, :2] = img_aug_matrix[:, :2, :2]
    homogeneous[:, :2, 2] = img_aug_matrix[:, :2, 3]
    return homogeneous @ lidar2img


def project_segments(segments: np.ndarray, lidar2img: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What lies in front of a camera of 3D segments, as pixels (m, 2 ends, 2), and which segments (m,) these are.

    A segment that goes behind the camera is cut ``NEAR_PLANE`` in front of it: divided by its depth, the hidden end would be
    thrown to the other side of the picture. A segment wholly behind is left out.

    Args:
        segments: (s, 2 ends, 3) in the lidar frame.
        lidar2img: (4, 4).
    """
    ends = segments.astype(np.float64) @ lidar2img[:3, :3].T + lidar2img[:3, 3]  # (s, 2, 3) as (u d, v d, d)
    kept = np.flatnonzero((ends[..., 2] > NEAR_PLANE).any(axis=1))
    ends = ends[kept]
    depth = ends[..., 2:]
    other = ends[:, ::-1]
    # Away from the plane the division is by a depth difference that is not used; 1 keeps it quiet.
    crosses = depth < NEAR_PLANE
    share = np.where(crosses, NEAR_PLANE - depth, 0) / np.where(crosses, other[..., 2:] - depth, 1)
    ends = ends + share * (other - ends)
    return ends[..., :2] / ends[..., 2:], kept


def box_wireframes(corners: np.ndarray, lidar2img: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (m, 2 ends, 2) of the lines of the boxes an image shows, and the box (m,) each line belongs to.

    A box gives its 12 edges and a cross on its front face, as far as they lie in front of the camera.

    Args:
        corners: (n, 8, 3).
        lidar2img: (4, 4) to the image as it is drawn.
        size: (H, W). A line that lies on one side of the image is left out.
    """
    pairs = np.concatenate([EDGES, FRONT_CROSS])
    lines, which = project_segments(corners[:, pairs].reshape(-1, 2, 3), lidar2img)
    height, width = size
    shown = ((lines.max(axis=1) >= 0) & (lines.min(axis=1) <= (width, height))).all(axis=1)
    return lines[shown], which[shown] // len(pairs)
