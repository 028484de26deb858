"""The command lines that users' scripts rely on: the flags, what train.py and test.py make of them, the help."""

import re

import pytest
import torch
from mmengine.config import Config
from tool_loading import TOOLS, load_tool

# a flag that goes breaks somebody's script, so this list only grows
FLAGS = dict(
    browse_dataset={'--split', '--number', '--output-dir', '--cfg-options'},
    check_data={'--split', '--limit', '--cfg-options'},
    convert_checkpoint={'--from', '--config', '--overwrite', '--json'},
    convert_openpcdet={'--base', '--out'},
    create_synthetic_nuscenes={
        '--out',
        '--scenes',
        '--samples-per-scene',
        '--seed',
        '--image-scale',
        '--sweeps',
        '--azimuth-steps',
        '--workers',
        '--overwrite',
    },
    demo={'--work-dir', '--cfg-options'},
    doctor={'--gpus', '--resume-from', '--dry-run', '--fix', '--json', '--cfg-options'},
    infer={'--info', '--index', '--points', '--score-thr', '--out-dir', '--device', '--cfg-options'},
    machine_table={'--check'},
    plan={
        '--gpus',
        '--batch-size',
        '--accumulate',
        '--total-batch-size',
        '--base-batch-size',
        '--rule',
        '--lr',
        '--samples',
        '--epochs',
        '--gpu-memory',
        '--precision',
        '--with-cp',
        '--measured',
        '--probe',
        '--cfg-options',
        '--json',
    },
    plot_schedule={'--out', '--gpus', '--samples', '--json', '--cfg-options'},
    prepare_nuscenes={'--version', '--max-sweeps', '--overwrite'},
    report={'--out', '--json'},
    setup_env={'--venv', '--here'},
    test={'--work-dir', '--show-dir', '--trial', '--amp', '--without', '--cfg-options', '--launcher', '--local_rank', '--local-rank'},
    train={
        '--work-dir',
        '--amp',
        '--compile',
        '--auto-scale-lr',
        '--resume',
        '--no-doctor',
        '--trial',
        '--save-every',
        '--retry-oom',
        '--seed',
        '--deterministic',
        '--samples-per-gpu',
        '--gpus',
        '--cfg-options',
        '--launcher',
        '--local_rank',
        '--local-rank',
    },
)


NAMES = sorted(path.stem for path in TOOLS.glob('*.py'))


@pytest.mark.parametrize('name', NAMES)
def test_the_flags_of_a_tool_stay(name, monkeypatch):
    seen = []
    monkeypatch.setattr('argparse.ArgumentParser.parse_args', lambda parser, argv=None: seen.append(parser))
    load_tool(name).parse_args([])
    flags = {flag for action in seen[0]._actions for flag in action.option_strings} - {'-h', '--help'}
    assert flags == FLAGS[name], 'a new flag belongs into this list'


@pytest.mark.parametrize('name', NAMES)
def test_help_shows_an_example(name, capsys):
    with pytest.raises(SystemExit) as stop:
        load_tool(name).parse_args(['--help'])
    assert stop.value.code == 0 and re.search('example', capsys.readouterr().out, re.IGNORECASE)


@pytest.fixture
def prepared(tmp_path):
    """A function (tool, arguments, load_from) that gives the config as the tool hands it to the Runner."""

    def prepare(tool, *arguments, load_from=None):
        loader = dict(batch_size=4, dataset=dict(type='toy_training.ToyData'))
        Config(
            dict(
                model=dict(type='toy_training.ToyModel'),
                train_dataloader=loader,
                test_dataloader=loader,
                test_cfg=dict(),
                test_evaluator=dict(type='DumpResults', out_file_path='out.pkl'),
                optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1)),
                load_from=load_from,
                auto_scale_lr=dict(base_batch_size=4),
                train_cfg=dict(by_epoch=True, max_epochs=1),
                randomness=dict(deterministic=True),
            )
        ).dump(tmp_path / 'toy.py')
        module = load_tool(tool)
        return module.prepared(module.parse_args([str(tmp_path / 'toy.py'), *arguments]))

    return prepare


@pytest.mark.parametrize(
    'arguments, key, expected',
    [
        ([], 'work_dir', 'work_dirs/toy'),
        (['--work-dir', 'there'], 'work_dir', 'there'),
        (['--amp'], 'optim_wrapper.type', 'bevfusion_plugin.AccumulativeAmpOptimWrapper'),
        ([], 'optim_wrapper.type', 'OptimWrapper'),
        (['--amp'], 'optim_wrapper.dtype', 'float16'),
        (['--amp', 'bfloat16'], 'optim_wrapper.dtype', 'bfloat16'),
        (['--auto-scale-lr'], 'auto_scale_lr.rule', 'linear'),
        (['--auto-scale-lr', 'sqrt'], 'auto_scale_lr.rule', 'sqrt'),
        ([], 'auto_scale_lr.rule', None),
        (['--seed', '0'], 'randomness', dict(deterministic=True, seed=0)),
        (['--cfg-options', 'optim_wrapper.optimizer.lr=0.5'], 'optim_wrapper.optimizer.lr', 0.5),
        ([], 'launcher', 'none'),
        (['--launcher', 'mpi'], 'launcher', 'mpi'),
        (['--resume'], 'resume', None),
    ],
)
def test_train_flags_reach_the_config(prepared, arguments, key, expected):
    value = prepared('train', *arguments)
    for name in key.split('.'):
        value = value.get(name)
    assert value == expected


def test_a_trial_leaves_out_weights_that_are_missing(prepared):
    assert prepared('train', '--trial', load_from='no/start.pth').load_from is None


def test_test_flags_reach_the_config(prepared, tmp_path):
    torch.save(dict(state_dict={}), tmp_path / 'epoch_1.pth')
    cfg = prepared('test', str(tmp_path / 'epoch_1.pth'), '--show-dir', 'pictures', '--work-dir', 'there', '--trial')
    assert cfg.load_from == str(tmp_path / 'epoch_1.pth') and cfg.work_dir == 'there'
    assert cfg.custom_hooks == [dict(type='bevfusion_plugin.DetectionPictureHook', out_dir='pictures')]
