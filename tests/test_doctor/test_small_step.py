import pytest
from mmengine.config import Config

from bevfusion_plugin.doctor.mend import changed
from bevfusion_plugin.doctor.small_step import can_step, step_fault


@pytest.fixture
def demo(request):
    return Config.fromfile(request.config.rootpath / 'configs/bevfusion_demo.py')


def test_a_model_whose_parts_fit_takes_a_step(demo):
    before = demo.to_dict()
    assert can_step(demo) and step_fault(demo) is None
    assert demo.to_dict() == before


@pytest.mark.parametrize(
    'changes, words',
    [
        ({'model.view_transform.xbound': [-36.0, 36.0, 1.8]}, 'different grids'),
        ({'model.bbox_head.in_channels': 96}, 'channel'),
        ({'model.bbox_head.type': 'NoHead'}, "there is no model called 'mmdet3d.NoHead'"),
        ({'model.bbox_head.train_cfg.grid_size': [160, 160, 41]}, ''),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(demo, changes, words):
    fault = step_fault(changed(demo, changes))
    assert fault and words in fault and '\n' not in fault


def test_other_models_are_not_tried():
    assert not can_step(Config(dict(model=dict(type='FasterRCNN')))) and not can_step(Config(dict()))
