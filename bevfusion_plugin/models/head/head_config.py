"""What a ``TransFusionHead`` knows of its settings: the data sets it treats in a special way, and what cannot work."""

from __future__ import annotations

from collections.abc import Mapping

from bevfusion_plugin.models.head.transfusion_bbox_coder import two_or_more
from bevfusion_plugin.models.head.transfusion_targets import map_cells
from bevfusion_plugin.plan.checked_settings import (
    channel_count,
    corners,
    finite_number,
    finite_numbers,
    non_empty_text,
    positive,
    positive_int,
    positive_numbers,
    settings_dict,
    switch,
    whole_number,
    whole_numbers,
)

CLASSES_WITHOUT_LOCAL_MAXIMUM: Mapping[str | None, tuple[int, ...]] = {
    'nuScenes': (8, 9),
    'Waymo': (1, 2),
}  # small objects that stand close together
# class -> SQUARED distance in m^2 within which the better box suppresses; classes not listed keep all their boxes
CIRCLE_NMS_RADIUS = {'nuScenes': {8: 0.175, 9: 0.175}, 'Waymo': {0: 0.7, 1: 0.7, 2: 0.7}}
CHANNELS = dict(center=2, height=1, dim=3, rot=2, vel=2)
LAST_CHANNELS = 64  # mmdet3d 1.4.0, SeparateHead.head_conv
REGRESSION = ('center', 'height', 'dim', 'rot', 'vel')  # order of the box code


def check_head_arguments(
    counts: Mapping[str, int],
    parts: Mapping[str, dict],
    auxiliary: bool,
    bn_momentum: float,
    bias: bool | str,
    common_heads: Mapping,
    test_cfg: Mapping,
    train_cfg: Mapping | None,
) -> None:
    """Raise a ``ValueError`` for an argument of a ``TransFusionHead`` that is of a wrong kind, before anything is built from it.

    Args:
        counts: Arguments that are numbers of things, by name.
        parts: Arguments that are configs of parts.
        auxiliary, bn_momentum, bias, common_heads, test_cfg, train_cfg: Arguments of those names.
    """
    for name, count in counts.items():
        channel_count(name, count)
    for name, part in parts.items():
        settings_dict(name, part, 'type')
    width = parts['decoder_layer'].get('self_attn_cfg', {}).get('embed_dims', counts['hidden_channel'])
    if width != counts['hidden_channel']:
        raise ValueError(f"hidden_channel must be decoder_layer.self_attn_cfg.embed_dims={width}, got {counts['hidden_channel']}")
    switch('auxiliary', auxiliary)
    positive('bn_momentum', bn_momentum, below=1)
    if bias != 'auto':
        switch('bias', bias, "or write 'auto'")
    for name, sizes in settings_dict('common_heads', common_heads, *REGRESSION[:-1]).items():
        whole_numbers(f'common_heads.{name}', sizes, 2, mend='they are channels and convolutions')
        if sizes[0] != CHANNELS.get(name, sizes[0]):
            raise ValueError(f'common_heads.{name} must have {CHANNELS[name]} channels, got {list(sizes)}')
        _check_convolutions(f'common_heads.{name}', sizes[1], counts['hidden_channel'], list(sizes))
    _check_convolutions('num_heatmap_convs', counts['num_heatmap_convs'], counts['hidden_channel'], counts['num_heatmap_convs'])
    _check_grid('test_cfg', test_cfg)
    if train_cfg is None:
        return
    _check_grid('train_cfg', train_cfg)
    settings_dict('train_cfg.assigner', train_cfg.get('assigner'), 'type')
    corners('train_cfg.point_cloud_range', train_cfg.get('point_cloud_range'))
    two_or_more('train_cfg.voxel_size', positive_numbers('train_cfg.voxel_size', train_cfg.get('voxel_size')))
    positive('train_cfg.gaussian_overlap', train_cfg.get('gaussian_overlap'), below=1)
    whole_number('train_cfg.min_radius', train_cfg.get('min_radius'), 0)
    finite_number('train_cfg.pos_weight', train_cfg.get('pos_weight', -1))
    if train_cfg.get('code_weights') is not None:
        finite_numbers('train_cfg.code_weights', train_cfg['code_weights'], least=0)


def _check_grid(name: str, cfg: Mapping) -> None:
    settings_dict(name, cfg, 'grid_size', 'out_size_factor')
    positive_int(f'{name}.out_size_factor', cfg['out_size_factor'])
    sizes = finite_numbers(f'{name}.grid_size', cfg['grid_size'])
    if len(sizes) < 2 or min(sizes[:2]) < cfg['out_size_factor']:
        raise ValueError(
            f'{name}.grid_size must be voxels along x and y, at least out_size_factor={cfg["out_size_factor"]} each, got {sizes!r}'
        )
    if cfg.get('dataset') is not None:
        non_empty_text(f'{name}.dataset', cfg['dataset'])


def _check_convolutions(name: str, convolutions: int, channels: int, shown: int | list[int]) -> None:
    if convolutions == 1 and channels != LAST_CHANNELS:
        raise ValueError(
            f"{name} must have 2 convolutions or more, got {shown}; mmdet3d's SeparateHead takes {LAST_CHANNELS} channels for "
            f'a last one without others before it, and hidden_channel is {channels}'
        )


def check_head_config(
    num_proposals: int,
    num_classes: int,
    nms_kernel_size: int,
    map_size: tuple[int, ...],
    common_heads: Mapping,
    code_size: int,
    loss_cls: Mapping,
    test_cfg: Mapping,
) -> None:
    """Raise a ``ValueError`` for settings of a ``TransFusionHead`` that cannot work, see its arguments."""
    dataset, nms_type = test_cfg.get('dataset'), test_cfg.get('nms_type')
    special = CLASSES_WITHOUT_LOCAL_MAXIMUM.get(dataset, ())
    channels = sum(common_heads[name][0] for name in REGRESSION if name in common_heads)
    for wrong, message in (
        (
            not loss_cls.get('use_sigmoid', False),
            'loss_cls.use_sigmoid must be True (a query has a probability per class and none for the background), '
            f"got {loss_cls.get('use_sigmoid')}; set it, e.g. with type='mmdet.FocalLoss'",
        ),
        (
            nms_kernel_size < 1 or nms_kernel_size % 2 == 0 or nms_kernel_size > min(map_size),
            f'nms_kernel_size must be odd, >= 1 and at most the map size {map_size}, got {nms_kernel_size}; '
            'the window needs a cell in its middle, take 3, or 1 for no local-maximum test',
        ),
        (
            nms_type not in (None, 'circle'),
            f"test_cfg.nms_type must be None or 'circle', got {nms_type!r}; overlap-based NMS is not supported",
        ),
        (
            nms_type == 'circle' and dataset not in CIRCLE_NMS_RADIUS,
            f"test_cfg.nms_type='circle' has radii for {sorted(CIRCLE_NMS_RADIUS)}, got dataset={dataset!r}; set test_cfg.nms_type=None",
        ),
        (
            any(label >= num_classes for label in special),
            f'test_cfg.dataset={dataset!r} treats classes {special} in a special way, got num_classes={num_classes}; '
            'give a data set with classes of your own another name',
        ),
        (
            num_proposals > num_classes * map_size[0] * map_size[1],
            f'num_proposals={num_proposals} exceeds the {num_classes} classes x {map_size} cells; lower it',
        ),
        (
            channels != code_size,
            f'common_heads give a box code of {channels} numbers ({", ".join(REGRESSION)}), got '
            f'bbox_coder.code_size={code_size}; 10 goes with vel, 8 without',
        ),
    ):
        if wrong:
            raise ValueError(message)


def check_train_config(train_cfg: Mapping, test_cfg: Mapping, map_size: tuple[int, ...], code_size: int) -> None:
    """Raise a ``ValueError`` for a ``train_cfg`` of a ``TransFusionHead`` that cannot work, see its arguments."""
    train_size = map_cells(train_cfg)
    if train_size != map_size:
        grids = [f'grid_size={list(cfg["grid_size"])}, out_size_factor={cfg["out_size_factor"]}' for cfg in (train_cfg, test_cfg)]
        raise ValueError(
            f'train_cfg gives a BEV map of {train_size} cells ({grids[0]}) and test_cfg one of {map_size} ({grids[1]}); '
            'make grid_size and out_size_factor of both agree'
        )
    pos_weight = train_cfg.get('pos_weight', -1)
    if pos_weight > 0 and pos_weight != int(pos_weight):
        raise ValueError(
            f'train_cfg.pos_weight must be a whole number (weights are int64, as in the reference) or '
            f'<= 0 for 1, got {pos_weight}; scale the weight of loss_cls instead'
        )
    code_weights = train_cfg.get('code_weights')
    if code_weights is not None and len(code_weights) != code_size:
        raise ValueError(
            f'train_cfg.code_weights must have {code_size} numbers, one for each of the box code, '
            f'got {len(code_weights)}: {list(code_weights)}'
        )
