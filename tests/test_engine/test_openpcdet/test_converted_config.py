"""The config that is written from an OPTIMIZATION block, and the tool that writes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from mmengine.config import Config
from optimization_blocks import ADAM, COSINE, ONE_CYCLE, SGD
from tool_loading import load_tool

from bevfusion_plugin.engine import convert_optimization
from bevfusion_plugin.engine.openpcdet.config_text import config_text

TOOL = Path(__file__).parents[3] / 'tools' / 'convert_openpcdet.py'


@pytest.fixture
def pcdet_yaml(tmp_path):
    def write(optimization: dict[str, Any] | None, **top_level: Any) -> Path:
        path = tmp_path / 'model.yaml'
        content = dict(CLASS_NAMES=['Car'], **top_level)
        path.write_text(yaml.safe_dump(content if optimization is None else dict(content, OPTIMIZATION=optimization)))
        return path

    return write


@pytest.mark.parametrize(
    'block',
    [
        ONE_CYCLE,
        COSINE,
        ADAM,
        SGD,
        {**SGD, 'LR_WARMUP': True},
        {**ONE_CYCLE, 'LOSS_SCALE_FP16': 32.0, 'USE_AMP': True, 'BETAS': [0.9, 0.999]},
    ],
    ids=lambda block: block['OPTIMIZER'],
)
def test_the_written_config_equals_the_converted_dict(block, pcdet_yaml, tmp_path):
    (tmp_path / 'out.py').write_text(config_text(pcdet_yaml(block)))
    config = Config.fromfile(tmp_path / 'out.py')
    for key, value in convert_optimization(block).items():
        assert plain(config[key]) == plain(value)
    assert config.lr == 0.003


def plain(value: Any) -> Any:
    """Lists for tuples, as a config file may hold either."""
    return json.loads(json.dumps(value))


def test_every_variable_names_the_key_it_came_from(pcdet_yaml):
    text = config_text(pcdet_yaml(ONE_CYCLE))
    for line in (
        'lr = 0.003  # LR',
        'moms = [0.95, 0.85]  # MOMS',
        'max_epochs = 8  # NUM_EPOCHS',
        'max_norm = 10  # GRAD_NORM_CLIP',
        'init_scale = 65536.0  # LOSS_SCALE_FP16; used with AMP only',
    ):
        assert line in text
    assert 'end=max_epochs' in text and 'lr=lr' in text
    assert 'ignores these keys for adam_onecycle' in text


def test_laid_over_a_base_it_replaces_the_optimisation_and_keeps_the_rest(pcdet_yaml, tmp_path):
    base = tmp_path / 'models' / 'base.py'
    base.parent.mkdir()
    base.write_text(
        "optim_wrapper = dict(type='AmpOptimWrapper', optimizer=dict(type='SGD', lr=1., nesterov=True))\n"
        "param_scheduler = [dict(type='LinearLR'), dict(type='CosineAnnealingLR')]\n"
        "train_cfg = dict(by_epoch=True, max_epochs=1, val_interval=5)\n"
        "train_dataloader = dict(batch_size=1, num_workers=9)\n"
    )
    out = tmp_path / 'configs' / 'out.py'
    out.parent.mkdir()
    out.write_text(config_text(pcdet_yaml(ONE_CYCLE), str(base), out))
    assert "_base_ = ['../models/base.py']" in out.read_text()
    config = Config.fromfile(out)
    assert plain(config.optim_wrapper) == plain(convert_optimization(ONE_CYCLE)['optim_wrapper'])
    assert len(config.param_scheduler) == 1
    assert config.train_cfg == dict(by_epoch=True, max_epochs=8, val_interval=5)
    assert config.train_dataloader == dict(batch_size=4, num_workers=9)


@pytest.fixture
def tool():
    return load_tool('convert_openpcdet')


def test_the_tool_writes_a_config_and_reports(tool, pcdet_yaml, tmp_path, capsys):
    path = pcdet_yaml(ONE_CYCLE, HOOK=dict(DisableAugmentationHook=dict(NUM_LAST_EPOCHS=5)))
    assert tool.main([str(path), '--out', str(tmp_path / 'out.py')]) == 0
    report = capsys.readouterr().err
    assert Config.fromfile(tmp_path / 'out.py').train_cfg.max_epochs == 8
    assert 'ignores these keys for adam_onecycle' in report and 'NUM_LAST_EPOCHS' in report
    assert tool.main([str(path)]) == 0
    assert capsys.readouterr().out == config_text(path)


@pytest.mark.parametrize(
    'block, message',
    [
        ({**ONE_CYCLE, 'PCT_START': 1.5}, 'PCT_START must be a number in [0, 1], got 1.5'),
        ({**ONE_CYCLE, 'FOO': 1}, 'unknown key FOO: 1'),
        ([], 'must be a mapping, got []'),
        (None, 'no OPTIMIZATION block'),
    ],
)
def test_an_error_names_the_file(block, message, pcdet_yaml):
    path = pcdet_yaml(block)
    with pytest.raises(ValueError) as error:
        config_text(path)
    assert str(path) in str(error.value) and message in str(error.value)


def test_the_tool_ends_with_status_two_on_an_error(tool, pcdet_yaml, tmp_path, capsys):
    assert tool.main([str(pcdet_yaml(None))]) == 2
    assert 'no OPTIMIZATION block' in capsys.readouterr().err
    assert tool.main([str(tmp_path / 'absent.yaml')]) == 2
    assert 'absent.yaml' in capsys.readouterr().err


def test_the_tool_writes_nothing_it_cannot_stand_for(tool, pcdet_yaml, tmp_path, capsys):
    path, out = pcdet_yaml(ONE_CYCLE), tmp_path / 'out.py'
    assert tool.main([str(path), '--base', 'no/such.py', '--out', str(out)]) == 2 and not out.exists()
    assert '--base: there is no config no/such.py' in capsys.readouterr().err
    assert tool.main([str(path), '--out', str(tmp_path / 'no' / 'out.py')]) == 2
    path.write_text('OPTIMIZATION:\n\tLR: 1')
    assert tool.main([str(path)]) == 2
