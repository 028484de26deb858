"""tools/convert_checkpoint.py from the outside, on the small detector of the end-to-end goldens."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from foreign_checkpoints import mit_checkpoint, pcdet_checkpoint
from goldens import load_golden
from mmengine.config import Config
from mmengine.runner import load_checkpoint
from tool_loading import load_tool

from bevfusion_plugin.conversion.names import SOURCES
from bevfusion_plugin.registry import MODELS, build_nested

ROOT = Path(__file__).parents[2]
FOREIGN = dict(mmdet3d=dict, mit=mit_checkpoint, openpcdet=pcdet_checkpoint)


@pytest.fixture(scope='module')
def tool():
    return load_tool('convert_checkpoint')


@pytest.fixture(scope='module')
def case(tmp_path_factory):
    """(config file of the small lidar-camera detector, its recorded weights)."""
    golden = load_golden('e2e_lidar_cam')
    path = tmp_path_factory.mktemp('config') / 'small.py'
    model = dict(golden.meta['cfg'], type='bevfusion_plugin.BEVFusion')
    path.write_text(f"default_scope = 'mmdet3d'\nmodel = {model!r}\n")
    return path, golden.group('sd/')


def run(tool, *arguments):
    return tool.main([str(argument) for argument in arguments])


@pytest.mark.parametrize('source', FOREIGN)
def test_a_converted_checkpoint_loads_whole_and_equals_the_original(source, tool, case, tmp_path, capsys):
    config, weights = case
    torch.save(dict(state_dict=FOREIGN[source](weights)), tmp_path / 'in.pth')
    assert run(tool, tmp_path / 'in.pth', tmp_path / 'out.pth', '--from', source, '--config', config) == 0
    model = build_nested(MODELS, Config.fromfile(config).model)
    load_checkpoint(model, str(tmp_path / 'out.pth'), strict=True)
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[name]), name
    printed = capsys.readouterr().out
    assert re.search(rf'in all +{len(weights)} +\d+ +0 +0 +0\n', printed)
    assert f'wrote {tmp_path / "out.pth"}' in printed


def test_the_output_says_where_it_comes_from_and_how_its_kernels_lie(tool, case, tmp_path):
    config, weights = case
    torch.save(mit_checkpoint(weights), tmp_path / 'theirs.pth')
    run(tool, tmp_path / 'theirs.pth', tmp_path / 'out.pth', '--from', 'mit', '--config', config)
    content = torch.load(tmp_path / 'out.pth', weights_only=True)
    assert {key: content['meta'][key] for key in ('converted_from', 'source_file', 'missing')} == dict(
        converted_from='mit', source_file='theirs.pth', missing=[]
    )
    assert content['state_dict']._metadata['pts_middle_encoder.conv_input.0']['version'] == 2, 'else mmdet3d turns it once more'


def test_findings_give_status_1_and_json_lists_them_all(tool, case, tmp_path, capsys):
    config, weights = case
    lidar_only = {key: value for key, value in weights.items() if key.startswith(('pts_', 'bbox_head'))}
    torch.save(pcdet_checkpoint(lidar_only), tmp_path / 'in.pth')
    assert run(tool, tmp_path / 'in.pth', tmp_path / 'out.pth', '--from', 'openpcdet', '--config', config, '--json') == 1
    report = json.loads(capsys.readouterr().out)
    assert sorted(report['matched']) == sorted(lidar_only)
    assert sorted(report['missing']) == sorted(set(weights) - set(lidar_only))
    assert report['unexpected'] == [] and report['wrong_shape'] == {}
    assert report['ignored'] == ['global_step']
    assert report['config'] == str(config) and report['out'] == str(tmp_path / 'out.pth')
    assert sorted(torch.load(tmp_path / 'out.pth')['state_dict']) == sorted(lidar_only)


def test_an_existing_file_is_overwritten_only_on_request(tool, case, tmp_path, capsys):
    config, weights = case
    torch.save(weights, tmp_path / 'in.pth')
    (tmp_path / 'out.pth').write_text('precious')
    arguments = (tmp_path / 'in.pth', tmp_path / 'out.pth', '--from', 'mmdet3d', '--config', config)
    assert run(tool, *arguments) == 2
    assert 'out.pth exists; choose another name or add --overwrite' in capsys.readouterr().err
    assert (tmp_path / 'out.pth').read_text() == 'precious'
    assert run(tool, *arguments, '--overwrite') == 0
    assert len(torch.load(tmp_path / 'out.pth')['state_dict']) == len(weights)


def test_bad_input_gives_status_2_and_one_message(tool, case, tmp_path, capsys):
    config, weights = case
    torch.save(weights, tmp_path / 'ours.pth')
    torch.save({'conv1.weight': torch.ones(1)}, tmp_path / 'resnet.pth')
    torch.save(dict(state_dict={'pts_backbone.blocks.0.0.weight': torch.ones(1)}), tmp_path / 'other.pth')
    for name, source, message in [
        ('absent.pth', 'mit', 'absent.pth does not exist'),
        ('ours.pth', 'mit', 'look like those of mmdet3d: use --from mmdet3d'),
        ('resnet.pth', 'mit', r'its keys are conv1.weight \(1\)|its keys are conv1.weight'),
        ('other.pth', 'mmdet3d', 'no tensor of .*other.pth fits the model'),
    ]:
        assert run(tool, tmp_path / name, tmp_path / 'out.pth', '--from', source, '--config', config) == 2
        captured = capsys.readouterr()
        assert captured.out == '' and re.search(message, captured.err)
    assert run(tool, tmp_path / 'ours.pth', tmp_path / 'out.pth', '--from', 'mmdet3d', '--config', 'no.py') == 2
    assert 'no config no.py' in capsys.readouterr().err
    assert run(tool, tmp_path / 'ours.pth', tmp_path / 'ours.pth' / 'out.pth', '--from', 'mmdet3d', '--config', config) == 2
    assert 'ours.pth' in capsys.readouterr().err
    assert not (tmp_path / 'out.pth').exists()


def test_the_config_follows_the_contents(tool):
    camera, lidar = 'encoders.camera.backbone.norm1.bias', 'encoders.lidar.backbone.conv_input.0.weight'
    assert Path(tool.default_config([lidar, camera], 'mit')).name == 'bevfusion.py'
    assert Path(tool.default_config([lidar], 'mit')).name == 'bevfusion_lidar.py'
    assert Path(tool.default_config(['image_backbone.norm1.bias'], 'openpcdet')).is_file()


def test_it_offers_every_source_that_is_known(tool):
    assert tool.SOURCES == SOURCES


def test_help_shows_an_example_from_any_directory(tmp_path):
    result = subprocess.run(
        [sys.executable, str(ROOT / 'tools' / 'convert_checkpoint.py'), '--help'], cwd=tmp_path, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert '--from mit' in result.stdout and '--overwrite' in result.stdout
