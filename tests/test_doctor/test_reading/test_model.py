import pytest
from mmengine.config import Config

from bevfusion_plugin.doctor.reading import model

BEVFUSION = dict(
    type='bevfusion_plugin.BEVFusion', img_backbone=dict(type='Swin'), view_transform=dict(type='LSS'), pts_middle_encoder=dict(type='X')
)


def test_a_fusion_model_is_known_by_its_parts():
    cfg = Config(dict(model=BEVFUSION))
    assert all(
        ask(cfg) for ask in (model.is_bevfusion, model.has_transfusion_head, model.has_cameras, model.lifts_images, model.sees_lidar)
    )
    other = Config(dict(model=dict(type='CenterPoint', bbox_head=dict(type='TransFusionHead'))))
    assert model.has_transfusion_head(other) and not model.is_bevfusion(other) and not model.has_cameras(other)


@pytest.mark.parametrize('value', [None, 3, 'text', [], {}, dict(type=None)])
def test_no_reader_crashes_on_a_senseless_model(value):
    cfg = Config(dict(model=value))
    assert not any(
        ask(cfg) for ask in (model.is_bevfusion, model.has_transfusion_head, model.has_cameras, model.lifts_images, model.sees_lidar)
    )
    assert model.trainable_batch_norms(cfg, synced=True) == []


@pytest.mark.parametrize(
    'norm, synced, expected',
    [
        (dict(type='BN'), False, True),
        (dict(type='BatchNorm2d'), False, True),
        (dict(type='SyncBN'), False, False),
        (dict(type='SyncBN'), True, True),
        (dict(type='LN'), True, False),
        (dict(type='BN1d', requires_grad=False), True, False),
    ],
)
def test_batch_norm_is_found_in_nested_parts(norm, synced, expected):
    cfg = Config(dict(model=dict(type='Net', parts=[dict(type='Conv', norm_cfg=norm)])))
    assert model.trainable_batch_norms(cfg, synced) == ['model.parts.0'] * expected
