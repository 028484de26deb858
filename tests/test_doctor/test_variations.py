"""Random variations of the demo: the doctor names an error, or one training step and one prediction work; and what it mends trains."""

import copy
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mmengine.config import Config

from bevfusion_plugin.doctor.case import Case
from bevfusion_plugin.doctor.examination import examine
from bevfusion_plugin.doctor.memory.bevfusion_memory import build_model, take_step
from bevfusion_plugin.doctor.memory.synthetic_batch import cameras_of, synthetic_batch
from bevfusion_plugin.doctor.mend import changed, changes_of, mend_all
from bevfusion_plugin.doctor.reading.config import to_plain
from bevfusion_plugin.doctor.small_step import step_fault

DEMO = Path(__file__).parents[2] / 'configs' / 'bevfusion_demo.py'
GRID = 'model.data_preprocessor.voxelize_cfg'
VIEW = 'model.view_transform'
# What somebody changes, in some of the places that it stands in: each a list of settings to choose from.
CHOICES = (
    [{}, *({f'{GRID}.point_cloud_range': [-half, -half, -5.0, half, half, 3.0]} for half in (21.6, 28.8, 34.2, 36.45))],
    [{}, {f'{GRID}.point_cloud_range': [-36.0, -28.8, -5.0, 36.0, 28.8, 3.0]}],
    [{}, *({f'{GRID}.voxel_size': [size, size, 0.2]} for size in (0.18, 0.25, 0.3)), {f'{GRID}.voxel_size': [0.225, 0.225, 0.1]}],
    [{}, *({'model.pts_middle_encoder.sparse_shape': shape} for shape in ([320, 320, 81], [320, 320, 17], [41, 320, 320]))],
    [{}, {'model.bbox_head.num_classes': 3}, {'model.bbox_head.num_classes': 11}],
    [
        {},
        {'model.pts_backbone.in_channels': 96},
        {'model.fusion_layer.in_channels': [16, 64]},
        {f'{VIEW}.out_channels': 16},
        {'model.fusion_layer.in_channels': [16, 64], f'{VIEW}.out_channels': 16},
    ],
    [{}, {'model.pts_middle_encoder.base_channels': 16}, {'model.pts_middle_encoder.output_channels': 48}],
    [{}, {f'{VIEW}.xbound': [-28.8, 28.8, 0.9]}, {f'{VIEW}.image_size': [64, 160]}, {f'{VIEW}.dbound': [1.0, 41.0, 2.0]}],
    [{}, {'model.bbox_head.num_proposals': 20}, {'model.bbox_head.hidden_channel': 48}, {'model.img_neck.out_channels': 32}],
)
variations = st.tuples(*(st.sampled_from(choice) for choice in CHOICES)).map(
    lambda chosen: {key: value for each in chosen for key, value in each.items()}
)
few = dict(derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))


def varied(variation, cameras):
    cfg = changed(Config.fromfile(DEMO), variation)
    for split in ('train', 'val', 'test'):
        dataset = cfg[f'{split}_dataloader'].dataset
        prefix = dataset.get('dataset', dataset).data_prefix
        for name in [name for name in prefix if name.startswith('CAM_')][cameras:]:
            del prefix[name]
    return cfg


def check(variation, cameras):
    """The property: an error with a name, or a step and a prediction; and whatever is called mended takes a step."""
    case = Case(varied(variation, cameras), 1)
    before = copy.deepcopy(to_plain(case.cfg.to_dict()))
    if not examine(case, 'error'):
        trains_and_predicts(case.cfg)
        return
    changes = changes_of(mend_all(case))
    assert to_plain(case.cfg.to_dict()) == before
    new = changed(case.cfg, changes)
    strays = {key for key in differing(before, to_plain(new.to_dict())) if not any(f'{key}.'.startswith(f'{each}.') for each in changes)}
    assert not strays
    if not examine(Case(new, 1), 'error'):
        assert step_fault(new) is None


def trains_and_predicts(cfg):
    model = build_model(cfg)
    take_step(model, cfg, synthetic_batch(cfg, 1, cameras_of(cfg), 0.1), torch.float32)
    with torch.no_grad():
        data = model.eval().data_preprocessor(synthetic_batch(cfg, 1, cameras_of(cfg), 0.1), training=False)
        (prediction,) = model.predict(data['inputs'], data['data_samples'])
    assert torch.isfinite(prediction.pred_instances_3d.bboxes_3d.tensor).all()


def differing(old, new, path=''):
    """Dotted keys of the smallest places in which two configs differ; a list that has another value is one place."""
    if isinstance(old, dict) and isinstance(new, dict):
        inner = (differing(old.get(key), new.get(key), f'{path}.{key}'.lstrip('.')) for key in {**old, **new})
        return set().union(*inner)
    if (
        isinstance(old, (list, tuple))
        and isinstance(new, (list, tuple))
        and len(old) == len(new)
        and any(isinstance(each, dict) for each in new)
    ):
        return set().union(*(differing(*pair, f'{path}.{index}') for index, pair in enumerate(zip(old, new))))
    same = list(old) == list(new) if isinstance(old, (list, tuple)) and isinstance(new, (list, tuple)) else old == new
    return set() if same else {path}


@settings(max_examples=5, **few)
@given(variation=variations, cameras=st.integers(1, 6))
def test_a_variation_works_or_is_named(variation, cameras):
    check(variation, cameras)


@pytest.mark.slow
@settings(max_examples=60, **{**few, 'derandomize': False})
@given(variation=variations, cameras=st.integers(1, 6))
def test_many_variations_work_or_are_named(variation, cameras):
    check(variation, cameras)


@pytest.mark.parametrize('index', range(len(CHOICES)))
@pytest.mark.slow
def test_every_single_change_works_or_is_named(index):
    for variation in CHOICES[index]:
        check(variation, 2)


def test_the_demo_itself_works():
    check({}, 2)
