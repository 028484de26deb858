"""Ground-truth boxes as a model is about to get them.

Box: (x, y, z, l, w, h, yaw[, vx, vy]), metres, radians, m/s. Velocities that nobody measured are NaN in nuScenes' info files and
already 0 here; a box without points and a frame without boxes are as they should be.
"""

from __future__ import annotations

import numpy as np

from bevfusion_plugin.datasets.checks.fault import Fault

FAR = 1e3  # metres from the sensor: beyond any lidar
LONG = 200.0  # metres: longer than a train
FIELDS = ('x', 'y', 'z', 'l', 'w', 'h', 'yaw', 'vx', 'vy')
MEND = (
    "correct the box in the info file, take it out, or have such boxes left out (dict(type='bevfusion_plugin.CheckSample', "
    'leave_out_boxes=True))'
)


def usable_boxes(boxes: np.ndarray) -> np.ndarray:
    """(N,) bool: which of ``boxes`` (N, 7 or 9) are finite, have a size and are near enough to be seen."""
    with np.errstate(invalid='ignore'):
        sizes = boxes[:, 3:6]
        near = np.abs(boxes[:, :3]).max(1, initial=0) <= FAR
        return np.isfinite(boxes).all(1) & near & (sizes > 0).all(1) & (sizes <= LONG).all(1)


def box_fault(boxes: np.ndarray, labels: np.ndarray) -> Fault | None:
    """The first box that is none, of those that are trained; None if there is no such box.

    Args:
        boxes: (N, 7 or 9).
        labels: (N,) class of each; -1 is not trained.
    """
    if len(boxes) != len(labels):
        return Fault('the info file', f'has {len(boxes)} boxes and {len(labels)} labels', 'correct its instances')
    wrong = np.flatnonzero(~usable_boxes(boxes) & (labels >= 0))
    if not len(wrong):
        return None
    box = boxes[wrong[0]]
    others = f' (and {len(wrong) - 1} more)' if len(wrong) > 1 else ''
    return Fault(f'box {wrong[0]}{others}', box_reason(box), MEND)


def box_reason(box: np.ndarray) -> str:
    """What is wrong with one box that is not usable."""
    values = ', '.join(f'{name} {value:.4g}' for name, value in zip(FIELDS, box))
    if not np.isfinite(box).all():
        names = [FIELDS[index] if index < len(FIELDS) else str(index) for index in np.flatnonzero(~np.isfinite(box))]
        return f'has {", ".join(names)} that are not finite: {values}'
    if (box[3:6] <= 0).any():
        return f'has no size: {values}'
    if np.abs(box[:3]).max() > FAR:
        return f'is {np.abs(box[:3]).max():.3g} m away: {values}'
    return f'is {box[3:6].max():.3g} m long: {values}'
