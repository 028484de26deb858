"""tools/doctor.py from the outside, and what it does in front of tools/train.py."""

import json
import subprocess
import sys
from pathlib import Path

import named_toys  # noqa: F401  the toys of TOY, by their names
import pytest
import torch
from mmengine.config import Config
from tool_loading import load_tool

ROOT = Path(__file__).parents[2]
RECIPE = str(ROOT / 'configs' / 'bevfusion_4x4090.py')
LIDAR = str(ROOT / 'configs' / 'bevfusion_lidar_4x4090.py')

TOY = """
model = dict(type='NamedToy')
train_dataloader = dict(batch_size=4, num_workers=2, sampler=dict(type='DefaultSampler'), dataset=dict(type='NamedToyData'))
optim_wrapper = dict(type='bevfusion_plugin.AccumulativeAmpOptimWrapper', dtype='float32', optimizer=dict(type='AdamW', lr=1e-3),
                     clip_grad=dict(max_norm=35))
param_scheduler = [dict(type='CosineAnnealingLR', by_epoch=True, convert_to_iter_based=True, begin=0, end=4, T_max=4)]
train_cfg = dict(by_epoch=True, max_epochs=4)
default_hooks = dict(checkpoint=dict(type='CheckpointHook', interval=1, max_keep_ckpts=2))
"""
SICK = TOY.replace('max_epochs=4', 'max_epochs=10')  # the schedule of 4 epochs stays


@pytest.fixture(scope='module')
def doctor():
    return load_tool('doctor')


@pytest.fixture(scope='module')
def train():
    return load_tool('train')


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.delenv('NUSCENES_SAMPLE', raising=False)
    monkeypatch.setattr('bevfusion_plugin.doctor.case.NOMINAL_BATCHES', 20)


@pytest.fixture
def config(tmp_path):
    """A function that writes a config."""

    def write(text, name='config.py'):
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


def rules(capsys):
    return {finding['rule'] for finding in json.loads(capsys.readouterr().out)['findings']}


def test_a_sound_config_leaves_with_status_0(doctor, config, capsys):
    assert doctor.main([config(TOY)]) == 0
    assert capsys.readouterr().out.strip().splitlines()[-1].startswith('0 errors, 0 warnings')


def test_findings_are_a_readable_table_and_status_1(doctor, config, capsys):
    assert doctor.main([config(SICK)]) == 1
    text = capsys.readouterr().out
    assert text.startswith('ERRORS') and '  schedule-ends-early  [--fix]' in text
    assert 'mend: ' in text and 'seen: https://github.com/open-mmlab/mmdetection3d/issues/2967' in text
    assert text.strip().splitlines()[-1].startswith('1 error, ')
    assert max(map(len, text.splitlines())) <= 130


def test_json_says_the_same(doctor, config, capsys):
    assert doctor.main([config(SICK), '--json']) == 1
    data = json.loads(capsys.readouterr().out)
    assert data['counts']['error'] == 1
    finding = data['findings'][0]
    assert (finding['rule'], finding['severity']) == ('schedule-ends-early', 'error')
    assert 'param_scheduler.0.end' in finding['changes']
    assert {'message', 'mend', 'evidence'} <= finding.keys()


def test_fix_writes_a_config_without_errors(doctor, config, tmp_path, capsys):
    out = tmp_path / 'deep' / 'mended.py'
    assert doctor.main([config(SICK), '--fix', str(out)]) == 1
    assert f'mended config: {out}' in capsys.readouterr().out
    assert Config.fromfile(out).param_scheduler[0].end == 10
    assert doctor.main([str(out)]) == 0


def test_fix_keeps_the_options(doctor, config, tmp_path):
    out = tmp_path / 'mended.py'
    doctor.main([config(TOY), '--cfg-options', 'train_cfg.max_epochs=8', '--fix', str(out)])
    cfg = Config.fromfile(out)
    assert (cfg.train_cfg.max_epochs, cfg.param_scheduler[0].end) == (8, 8)


@pytest.mark.parametrize(
    'options, message',
    [
        (['nowhere.py'], 'there is no config nowhere.py'),
        ([RECIPE, '--gpus', '0'], '--gpus must be >= 1, got 0'),
        ([RECIPE, '--dry-run', '-1'], '--dry-run must be >= 1'),
        ([RECIPE, '--resume-from', 'no.pth'], 'there is no checkpoint no.pth'),
        ([RECIPE, '--resume-from', RECIPE], '--resume-from: the checkpoint'),
        ([RECIPE, '--fix', RECIPE], 'would overwrite the config'),
    ],
)
def test_wrong_arguments_leave_with_status_2(doctor, options, message, capsys):
    assert doctor.main(options) == 2
    assert message in capsys.readouterr().err


def test_a_config_that_is_no_python_leaves_with_status_2(doctor, config, capsys):
    assert doctor.main([config('model = dict(')]) == 2
    assert 'cannot be read' in capsys.readouterr().err


def test_resuming_behind_the_stock_paste_hook_is_noticed(doctor, tmp_path, capsys):
    torch.save(dict(state_dict={}, meta=dict(epoch=17, iter=17), optimizer={}, message_hub={}), tmp_path / 'epoch_17.pth')
    out = tmp_path / 'stock.py'
    out.write_text(
        f"_base_ = {LIDAR!r}\ncustom_hooks = [dict(type='mmdet3d.DisableObjectSampleHook', disable_after_epoch=15)]\n"
        "train_cfg = dict(max_epochs=20)\nparam_scheduler = []\n"
    )
    doctor.main([str(out), '--resume-from', str(tmp_path / 'epoch_17.pth'), '--json'])
    assert 'paste-hook-against-resume' in rules(capsys)


def test_a_dry_run_without_data_says_so(doctor, config, capsys):
    text = TOY.replace("type='NamedToyData'", "type='NamedToyData', data_root='no/such/folder'")
    doctor.main([config(text), '--dry-run', '2'])
    assert 'no iteration was run: the training data are not there' in capsys.readouterr().out


def test_the_main_recipe_is_examined_from_any_directory(tmp_path):
    result = subprocess.run(
        [sys.executable, str(ROOT / 'tools' / 'doctor.py'), RECIPE, '--json'], capture_output=True, text=True, cwd=tmp_path
    )
    assert result.returncode == 1, result.stderr
    data = json.loads(result.stdout)
    assert data['counts']['error'] == 0 and 'missing-weights' in {finding['rule'] for finding in data['findings']}


def test_training_stops_before_a_config_with_errors(train, config, tmp_path, capsys):
    assert train.main([config(SICK), '--work-dir', str(tmp_path / 'work')]) == 2
    text = capsys.readouterr().err
    assert 'schedule-ends-early' in text and '--no-doctor starts it as it is' in text and '--fix OUT.py' in text
    assert not (tmp_path / 'work').exists()


def test_training_can_be_told_to_start_all_the_same(train, config, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train, 'run', lambda cfg: 77)  # it gets as far as training
    assert train.main([config(SICK), '--work-dir', str(tmp_path / 'work'), '--no-doctor']) == 77
    assert 'schedule-ends-early' not in capsys.readouterr().err


UNBUILDABLE = [
    ('model.type=NamedTay', "model: there is no model called 'NamedTay'; did you mean 'mmengine.NamedToy'?"),
    ('model.layers=3', "got an unexpected keyword argument 'layers'"),
    ('optim_wrapper.accumulate=4', "has no argument 'accumulate'"),
    ('optim_wrapper.optimizer.lrr=4', "did you mean 'lr'?"),
    ('train_cfg.max_epoch=4', "did you mean 'max_epochs'?"),
    ('train_dataloader.batchsize=4', "did you mean 'batch_size'?"),
    ('train_dataloader.dataset.type=NamedToyDate', "did you mean 'mmengine.NamedToyData'?"),
    ('train_dataloader.sampler.suffle=True', "did you mean 'shuffle'?"),
    ('default_hooks.timer.type=IterTimer', "did you mean 'mmengine.IterTimerHook'?"),
]


def test_a_mended_config_has_taken_a_small_step(doctor, tmp_path, monkeypatch, capsys):
    demo, out = str(ROOT / 'configs' / 'bevfusion_demo.py'), tmp_path / 'mended.py'
    options = [
        '--cfg-options',
        'model.data_preprocessor.voxelize_cfg.point_cloud_range=[-28.8,-28.8,-5.0,28.8,28.8,3.0]',
        '--fix',
        str(out),
    ]
    assert doctor.main([demo, *options]) == 1
    text = capsys.readouterr().out
    assert f'mended config: {out}, a small step of it was taken' in text and 'NOT MENDED' not in text
    assert 'model.pts_middle_encoder.sparse_shape: [320, 320, 41] -> [256, 256, 41]' in text
    monkeypatch.setattr(doctor, 'step_fault', lambda cfg: 'grids (53, 53), (54, 54)')
    assert doctor.main([demo, *options]) == 1
    text = capsys.readouterr().out
    assert 'step of it was taken' not in text and 'NOT MENDED, correct by hand: grids (53, 53), (54, 54)' in text


OFF = [
    'val_dataloader',
    'val_cfg',
    'val_evaluator',
    'test_dataloader',
    'test_cfg',
    'test_evaluator',
    'param_scheduler',
    'default_hooks',
    'custom_hooks',
    'auto_scale_lr',
    'env_cfg',
    'randomness',
    'load_from',
    'resume',
    'visualizer',
    'log_processor',
    'default_scope',
    'model',
    'train_dataloader',
    'train_cfg',
    'optim_wrapper',
    'optim_wrapper.optimizer',
    'optim_wrapper.clip_grad',
    'train_dataloader.sampler',
    'train_dataloader.dataset',
]


@pytest.mark.parametrize('key', OFF)
def test_none_is_off_and_no_rule_stumbles_over_it(doctor, config, key, capsys):
    doctor.main([config(TOY), '--cfg-options', f'{key}=None'])
    assert 'could not be decided' not in capsys.readouterr().out


def test_a_misspelt_top_level_key_is_an_error(doctor, config, capsys):
    assert doctor.main([config(TOY + 'trian_cfg = dict(max_epochs=1)\n')]) == 1
    assert "nothing reads the top-level key 'trian_cfg'; the Runner reads 'train_cfg'" in ' '.join(capsys.readouterr().out.split())
    assert doctor.main([config(TOY), '--cfg-options', 'trian_cfg.max_epochs=1']) == 2
    assert 'did you mean train_cfg?' in capsys.readouterr().err


@pytest.mark.parametrize('option, message', UNBUILDABLE)
def test_what_no_registry_takes_is_named_by_doctor_and_by_train(doctor, train, config, tmp_path, option, message, capsys):
    path = config(TOY)
    assert doctor.main([path, '--cfg-options', option]) == 1
    seen = ' '.join(capsys.readouterr().out.split())
    assert message in seen and 'ERRORS' in seen
    assert train.main([path, '--work-dir', str(tmp_path / 'work'), '--cfg-options', option]) == 2
    assert message in ' '.join(capsys.readouterr().err.split())
    assert not (tmp_path / 'work').exists()


def test_training_names_errors_of_the_config_and_missing_data_together(train, tmp_path, capsys):
    # 4 or 8 samples at the learning rate of 32
    assert (
        train.main(
            [
                LIDAR,
                '--gpus',
                '1',
                '--cfg-options',
                f'data_root={tmp_path}/nowhere',
                'optim_wrapper.accumulative_counts=1',
                'optim_wrapper.total_batch_size=None',
                'train_dataloader.sampler.total_batch_size=None',
            ]
        )
        == 2
    )
    text = capsys.readouterr().err
    assert 'lr-off-the-batch' in text and f'{tmp_path}/nowhere does not exist' in text


def test_training_warns_of_nothing_that_is_no_error(train, tmp_path, capsys):
    assert train.main([RECIPE, '--cfg-options', f'data_root={tmp_path}/nowhere']) == 2
    text = capsys.readouterr().err
    assert 'ERRORS' not in text and 'does not exist' in text


def test_a_trial_is_not_examined_and_nothing_else_is_one(train, config, monkeypatch, tmp_path, capsys):
    lacking = SICK + "load_from = 'no/start.pth'\n"
    monkeypatch.setenv('NUSCENES_SAMPLE', str(tmp_path))
    assert train.main([config(lacking), '--work-dir', str(tmp_path / 'work')]) == 2
    text = capsys.readouterr().err
    assert 'schedule-ends-early' in text and 'no/start.pth' in text
    monkeypatch.setattr(train, 'run', lambda cfg: 77)  # it gets as far as training
    assert train.main([config(lacking), '--work-dir', str(tmp_path / 'work'), '--trial']) == 77
