"""tools/plot_schedule.py from the outside."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tool_loading import load_tool

ROOT = Path(__file__).parents[2]
CONFIG = '''
num_gpus = 2
optim_wrapper = dict(type='AmpOptimWrapper', optimizer=dict(type='AdamW', lr=1e-3), accumulative_counts={counts})
param_scheduler = [dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=20),
                   dict(type='MultiStepLR', milestones=[2], end=3)]
train_cfg = dict(by_epoch=True, max_epochs=3)
train_dataloader = dict(batch_size=2)
custom_hooks = [dict(type='DisableObjectSampleHook', disable_after_epoch=2)]
'''


@pytest.fixture(scope='module')
def tool():
    return load_tool('plot_schedule')


@pytest.fixture
def config(tmp_path):
    def write(name='mine.py', text=CONFIG, counts=1):
        (tmp_path / name).write_text(text.format(counts=counts))
        return str(tmp_path / name)

    return write


def numbers(tool, capsys, *args):
    assert tool.main([*args, '--json']) == 0
    return json.loads(capsys.readouterr().out)


def test_json_gives_the_numbers_of_every_config_and_writes_nothing(tool, config, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one, two = numbers(tool, capsys, config(), config('other.py', counts=2), '--samples', '400')
    assert one == dict(
        config='mine',
        updates=300,
        epochs=3.0,
        updates_per_epoch=100,
        batches_per_epoch=100,
        accumulative_counts=1,
        first_lr=1e-4,
        peak_lr=pytest.approx(1e-3),
        peak_update=19,
        warmup_end=19,
        end_lr=pytest.approx(1e-4),
        momentum_name='beta1',
        first_momentum=0.9,
        min_momentum=0.9,
        max_momentum=0.9,
        end_momentum=0.9,
        paste_end=200,
        epoch_length_is_assumed=False,
    )
    assert (two['updates'], two['warmup_end'], two['paste_end']) == (150, 9, 100)
    assert not list(tmp_path.glob('*.png'))


def test_gpus_and_cfg_options_reach_the_schedule(tool, config, capsys):
    (result,) = numbers(
        tool,
        capsys,
        config(),
        '--samples',
        '400',
        '--gpus',
        '1',
        '--cfg-options',
        'train_cfg.max_epochs=2',
        'optim_wrapper.optimizer.lr=0.5',
    )
    assert result['updates'] == 400 and result['peak_lr'] == pytest.approx(0.5)


def test_unknown_samples_are_said_to_be_assumed(tool, config, capsys):
    (result,) = numbers(tool, capsys, config())
    assert result['epoch_length_is_assumed'] and result['batches_per_epoch'] == 1000


def test_a_picture_is_written_and_a_line_printed_for_each_config(tool, config, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert tool.main([config(), config('other.py', counts=2), '--samples', '400']) == 0
    out = capsys.readouterr().out
    assert 'mine: 300 updates in 3 epochs; LR 0.0001 -> 0.001 (update 19) -> 0.0001; beta1 0.9 to 0.9' in out
    assert 'other: 150 updates' in out and (tmp_path / 'schedule.png').stat().st_size > 10_000
    assert tool.main([config(), '--json', '--out', 'named', '--samples', '400']) == 0
    assert (tmp_path / 'named.svg').exists() and (tmp_path / 'named.png').exists()


@pytest.mark.parametrize(
    'text, args, message',
    [
        ('model = 1', [], 'nothing to draw'),
        ('x = [', [], 'cannot be read: SyntaxError'),
        (CONFIG.replace('MultiStepLR', 'NoSuchLR'), [], 'NoSuchLR is not in'),
        (CONFIG, ['--out', 'a.pdf'], 'must end in .png or .svg'),
    ],
)
def test_bad_input_is_status_2_with_a_message_and_no_traceback(tool, config, capsys, text, args, message):
    assert tool.main([config(text=text), *args]) == 2
    error = capsys.readouterr().err
    assert message in error and 'Traceback' not in error


def test_a_missing_config_and_senseless_numbers_are_usage_errors(tool, config, capsys):
    assert tool.main(['nowhere.py']) == 2
    assert 'there is no config nowhere.py' in capsys.readouterr().err
    assert tool.main([config(), '--gpus', '0']) == 2
    assert '--gpus must be >= 1, got 0' in capsys.readouterr().err


def test_it_runs_from_any_directory_and_shows_an_example(tmp_path):
    result = subprocess.run([sys.executable, ROOT / 'tools' / 'plot_schedule.py', '--help'], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0 and 'python tools/plot_schedule.py configs/bevfusion.py' in result.stdout


def test_the_flagship_recipe_is_drawn_without_data_or_gpu(tool, capsys):
    (result,) = numbers(tool, capsys, str(ROOT / 'configs' / 'bevfusion_4x4090.py'))
    assert (result['updates'], result['updates_per_epoch'], result['peak_lr']) == (10_304, 1288, 2e-4)
    assert result['min_momentum'] == pytest.approx(0.9 * 0.85 / 0.95) and result['max_momentum'] == 0.9
