"""What a ``TransFusionHead`` knows of its settings: the data sets it treats in a special way, and what cannot work."""
from __future__ import annotations

from collections.abc import Mapping

from bevfusion_plugin.models.head.transfusion_targets import map_cells

CLASSES_WITHOUT_LOCAL_MAXIMUM = {'nuScenes': (8, 9), 'Waymo': (1, 2)}  # small objects that stand close together
# class -> SQUARED distance in m^2 within which the better box suppresses; classes not listed keep all their boxes
CIRCLE_NMS_RADIUS = {'nuScenes': {8: 0.175, 9: 0.175}, 'Waymo': {0: 0.7, 1: 0.7, 2: 0.7}}
REGRESSION = ('center', 'height', 'dim', 'rot', 'vel')  # order of the box code


def check_head_config(num_proposals: int, num_classes: int, nms_kernel_size: int, map_size: tuple[int, ...],
                      common_heads: Mapping, code_size: int, loss_cls: Mapping, test_cfg: Mapping) -> None:
    """Raise a ``ValueError`` for settings of a ``TransFusionHead`` that cannot work, see its arguments."""
    dataset, nms_type = test_cfg.get('dataset'), test_cfg.get('nms_type')
    special = CLASSES_WITHOUT_LOCAL_MAXIMUM.get(dataset, ())
    channels = sum(common_heads[name][0] for name in REGRESSION if name in common_heads)
    for wrong, message in (
            (not loss_cls.get('use_sigmoid', False),
             'loss_cls.use_sigmoid must be True (a query has a probability per class and none for the background), '
             f"got {loss_cls.get('use_sigmoid')}; set it, e.g. with type='mmdet.FocalLoss'"),
            (nms_kernel_size < 1 or nms_kernel_size % 2 == 0 or nms_kernel_size > min(map_size),
             f'nms_kernel_size must be odd, >= 1 and at most the map size {map_size}, got {nms_kernel_size}; '
             'the window needs a cell in its middle, take 3, or 1 for no local-maximum test'),
            (nms_type not in (None, 'circle'),
             f"test_cfg.nms_type must be None or 'circle', got {nms_type!r}; overlap-based NMS is not supported"),
            (nms_type == 'circle' and dataset not in CIRCLE_NMS_RADIUS,
             f"test_cfg.nms_type='circle' has radii for {sorted(CIRCLE_NMS_RADIUS)}, got dataset={dataset!r}; "
             'set test_cfg.nms_type=None'),
            (any(label >= num_classes for label in special),
             f'test_cfg.dataset={dataset!r} treats classes {special} in a special way, got num_classes={num_classes}; '
             'give a data set with classes of your own another name'),
            (num_proposals > num_classes * map_size[0] * map_size[1],
             f'num_proposals={num_proposals} exceeds the {num_classes} classes x {map_size} cells; lower it'),
            (channels != code_size,
             f'common_heads give a box code of {channels} numbers ({", ".join(REGRESSION)}), got '
             f'bbox_coder.code_size={code_size}; 10 goes with vel, 8 without')):
        if wrong:
            raise ValueError(message)


def check_train_config(train_cfg: Mapping, map_size: tuple[int, ...], code_size: int) -> None:
    """Raise a ``ValueError`` for a ``train_cfg`` of a ``TransFusionHead`` that cannot work, see its arguments."""
    train_size = map_cells(train_cfg)
    if train_size != map_size:
        raise ValueError(f'train_cfg gives a BEV map of {train_size} cells and test_cfg one of {map_size}; make '
                         'grid_size and out_size_factor of both agree')
    pos_weight = train_cfg.get('pos_weight', -1)
    if pos_weight > 0 and pos_weight != int(pos_weight):
        raise ValueError(f'train_cfg.pos_weight must be a whole number (weights are int64, as in the reference) or '
                         f'<= 0 for 1, got {pos_weight}; scale the weight of loss_cls instead')
    code_weights = train_cfg.get('code_weights')
    if code_weights is not None and len(code_weights) != code_size:
        raise ValueError(f'train_cfg.code_weights must have {code_size} numbers, one for each of the box code, '
                         f'got {len(code_weights)}')
