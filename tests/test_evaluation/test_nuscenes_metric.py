"""NuScenesMetric refuses at the start what the devkit cannot score; tests/test_synthetic_nuscenes/test_mmdet3d.py scores with it."""

import pytest
from mmengine.evaluator import Evaluator

from bevfusion_plugin.registry import METRICS

CLASSES = ['car', 'pedestrian']


def metric(**settings):
    return METRICS.build(dict(type='bevfusion_plugin.NuScenesMetric', data_root='nowhere', ann_file='nowhere.pkl', **settings))


@pytest.mark.parametrize(
    'meta, message',
    [
        (dict(classes=['car', 'tram'], version='v1.0-mini'), 'the data set has car, tram; .*CenterDistanceMetric'),
        (dict(classes=[], version='v1.0-mini'), 'the data set has no classes'),
        (None, 'the data set has no classes'),
        (dict(classes=CLASSES, version='v1.0-test'), "got 'v1.0-test'; .*format_only=True"),
        (dict(classes=CLASSES), 'scores metainfo.version v1.0-trainval and v1.0-mini, got None'),
    ],
)
def test_what_cannot_be_scored_is_refused_when_the_validation_loop_is_built(meta, message):
    with pytest.raises(ValueError, match=message):
        Evaluator(metric()).dataset_meta = meta


def test_a_result_file_can_be_written_for_tables_without_annotations(tmp_path):
    Evaluator(metric(format_only=True, jsonfile_prefix=str(tmp_path))).dataset_meta = dict(classes=CLASSES, version='v1.0-test')
