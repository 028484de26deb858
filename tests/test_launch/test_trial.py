import pytest
from mmengine.config import Config

from bevfusion_plugin.launch.trial import fit_to_sample


@pytest.fixture
def cfg(tmp_path):
    (tmp_path / 'v1.0-mini').mkdir()
    evaluator = dict(type='NuScenesMetric', data_root=str(tmp_path))
    return Config(
        dict(
            load_from='no/lidar.pth',
            val_evaluator=evaluator,
            test_evaluator=[evaluator],
            model=dict(img_backbone=dict(type='Swin', init_cfg=dict(type='Pretrained', checkpoint='no/swin.pth'))),
        )
    )


def test_a_trial_starts_from_random_weights(cfg):
    fit_to_sample(cfg, training=True)
    assert cfg.load_from is None and cfg.model.img_backbone == dict(type='Swin', init_cfg=None)
    assert cfg.val_evaluator.type == 'NuScenesMetric', 'the tables are there'


def test_a_trial_without_tables_takes_the_metric_that_needs_none(cfg, tmp_path):
    (tmp_path / 'v1.0-mini').rmdir()
    fit_to_sample(cfg, training=False)
    assert cfg.val_evaluator == cfg.test_evaluator == dict(type='bevfusion_plugin.CenterDistanceMetric')
    assert cfg.load_from == 'no/lidar.pth', 'the checkpoint that is tested'
