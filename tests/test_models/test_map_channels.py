import copy

import pytest
from mmengine.config import Config

from bevfusion_plugin.doctor.memory.bevfusion_memory import build_model
from bevfusion_plugin.models.lidar.sparse_encoder import BEVFusionSparseEncoder


@pytest.fixture(params=['bevfusion_demo.py', 'bevfusion_lidar_4x4090.py'])
def cfg(request):
    return Config.fromfile(request.config.rootpath / 'configs' / request.param)


def test_channels_that_do_not_follow_from_the_height_are_refused_at_build_with_both_numbers(cfg):
    channels = cfg.model.pts_middle_encoder.output_channels if 'output_channels' in cfg.model.pts_middle_encoder else 128
    assert build_model(cfg).pts_middle_encoder.map_channels == 2 * channels
    cfg.model.pts_middle_encoder.sparse_shape[2] = 81
    taker = r'fusion_layer.in_channels\[-1\]' if cfg.model.get('fusion_layer') else 'pts_backbone.in_channels'
    with pytest.raises(
        ValueError,
        match=f'gives {4 * channels} channels .*{channels} x 4 heights.* but {taker} is {2 * channels}; set it to {4 * channels}',
    ):
        build_model(cfg)


def test_a_height_that_is_gone_before_the_end_is_refused(cfg):
    encoder = copy.deepcopy(cfg.model.pts_middle_encoder)
    encoder.pop('type')
    with pytest.raises(ValueError, match=r'sparse_shape \[.*, 9\] is too flat'):
        BEVFusionSparseEncoder(**dict(encoder, sparse_shape=[*encoder.sparse_shape[:2], 9]))
