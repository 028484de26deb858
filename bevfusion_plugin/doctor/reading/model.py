"""What kind of model a config names."""

from __future__ import annotations

from mmengine.config import Config

from bevfusion_plugin.doctor.reading.config import mapping, parts, short_name

SYNCED = ('sync', 'mmsync', 'naivesync')


def is_bevfusion(cfg: Config) -> bool:
    """Whether the model is a BEVFusion, with cameras or without, from whatever package."""
    return short_name(cfg.get('model')) == 'BEVFusion'


def has_transfusion_head(cfg: Config) -> bool:
    """Whether the model is BEVFusion, or another detector with its head, in this package's or mmdet3d's parts."""
    model = mapping(cfg.get('model'))
    return short_name(model) == 'BEVFusion' or short_name(model.get('bbox_head')) == 'TransFusionHead'


def has_cameras(cfg: Config) -> bool:
    """Whether the model sees images."""
    model = mapping(cfg.get('model'))
    return bool(model.get('img_backbone'))


def lifts_images(cfg: Config) -> bool:
    """Whether the model puts image features into the bird's-eye view, as BEVFusion with cameras does."""
    return has_cameras(cfg) and bool(mapping(cfg.get('model')).get('view_transform'))


def sees_lidar(cfg: Config) -> bool:
    """Whether the model has a lidar branch."""
    model = mapping(cfg.get('model'))
    if is_bevfusion(cfg):
        return bool(model.get('pts_middle_encoder'))  # with cameras alone it has the others still
    return any(model.get(name) for name in ('pts_middle_encoder', 'pts_voxel_encoder', 'pts_backbone', 'voxel_encoder'))


def trainable_batch_norms(cfg: Config, synced: bool) -> list[str]:
    """Dotted keys of the model's parts whose ``norm_cfg`` asks for a BatchNorm that learns.

    Layers that take BatchNorm without a ``norm_cfg`` are not seen.

    Args:
        cfg: The whole config.
        synced: Whether those that share statistics between the ranks count too.
    """
    found = []
    for path, part in parts(cfg.get('model')):
        norm = mapping(part.get('norm_cfg'))
        name = short_name(norm).lower()
        is_batch_norm = name.startswith('bn') or 'batchnorm' in name or name.startswith(SYNCED)
        if is_batch_norm and norm.get('requires_grad', True) and not part.get('norm_eval', False):
            if synced or not name.startswith(SYNCED):
                found.append(path)
    return found
