"""tools/plan.py from the outside: what it answers, what it refuses, and how long it takes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from tool_loading import load_tool

from bevfusion_plugin.doctor.memory.measured import model_key

ROOT = Path(__file__).parents[2]
RECIPE = str(ROOT / 'configs/bevfusion_4x4090.py')
ISSUE = ['--gpus', '4', '--batch-size', '3', '--base-batch-size', '32']


@pytest.fixture(scope='module')
def plan():
    return load_tool('plan')


@pytest.fixture
def ask(plan, capsys):
    """Function that gives the exit status, the text and the error text of a command line."""

    def run(*argv):
        status = plan.main(list(argv))
        return status, *capsys.readouterr()

    return run


def cells_of(text, b, counts):
    """The cells of the table's line for b and A, without the mark."""
    lines = [line.replace('>', ' ').split() for line in text.splitlines()]
    return next(line for line in lines if line[:2] == [str(b), str(counts)] and len(line) > 8)


def test_three_samples_on_four_gpus_for_a_base_batch_of_32(ask):
    status, text, _ = ask(*ISSUE)
    assert status == 1
    assert 'no whole accumulative_counts gives total_batch_size 32: 32 / (4 x 3) = 2.667' in text
    assert 'nearest plans: 4 x 2 x A4 = 32, 4 x 4 x A2 = 32, 4 x 3 x A3 = 36' in text
    assert 'epochs of 123,580 samples' in text and 'makes 23,172 updates in all' in text
    # b, A, total, updates an epoch, in all, loop, warm-up, LR linear, LR sqrt, GPUs x b (three words), verdict
    for line in (
        '2 4 32 3,862 23,172 23,172 500 2e-4 2e-4 16 x 2 good',
        '4 2 32 3,862 23,172 23,172 500 2e-4 2e-4 8 x 4 good',
        '3 3 36 3,433 20,597 20,598 444 2.25e-4 2.12e-4 12 x 3 usable',
        '3 8 96 1,288 7,724 7,728 167 6e-4 3.46e-4 32 x 3 bad',
    ):
        assert cells_of(text, *line.split()[:2]) == line.split()
    assert '4 x 3 x A8 = 96: bad: 7,724 updates, 33% of the 23,172 that the reference makes' in text


def test_the_chosen_plan_and_the_rule_in_force_are_marked(ask):
    _, text, _ = ask(*ISSUE, '--accumulate', '8', '--rule', 'sqrt')
    marked = [line for line in text.splitlines() if line.startswith('>')]
    assert len(marked) == 1 and marked[0].split()[1:4] == ['3', '8', '96']
    assert 'LR sqrt*' in text and 'LR linear*' not in text


def test_a_plan_without_a_fault_is_no_finding(ask):
    assert ask('--gpus', '4', '--base-batch-size', '32', '--batch-size', '2')[0] == 0
    assert ask('--gpus', '4', '--base-batch-size', '32')[0] == 0


def test_what_a_gpu_measured_goes_before_the_estimate(ask, tmp_path):
    config = str(ROOT / 'configs/bevfusion_demo.py')
    row = dict(backend='torch', dtype='float32', with_cp=False, samples=2, reserved_gib=5.0)
    (tmp_path / 'gpu.json').write_text(
        json.dumps(dict(version=1, model=model_key(Config.fromfile(config)), rows=[row], machine=dict(name='Some', gib=24.0)))
    )
    status, text, _ = ask(
        config,
        '--gpus',
        '2',
        '--samples',
        '640',
        '--base-batch-size',
        '16',
        '--batch-size',
        '2',
        '--accumulate',
        '4',
        '--gpu-memory',
        '24',
        '--measured',
        str(tmp_path / 'gpu.json'),
    )
    assert status == 0 and 'in use at most (measured)' in text and 'gradients in flight' not in text
    (tmp_path / 'gpu.json').write_text('[]')
    status, _, error = ask(config, '--gpus', '2', '--samples', '640', '--gpu-memory', '24', '--measured', str(tmp_path / 'gpu.json'))
    assert status == 2 and 'is no record of benchmarks/gpu.py' in error


def test_a_config_tells_everything_and_flags_override_it(ask):
    status, text, _ = ask(RECIPE)
    assert status == 1 and 'chosen: 4 x 3 x A8 = 96, bad' in text and 'better: 4 x 2 x A4 = 32' in text
    assert 'LR 2e-4 tuned for 32 samples, kept' in text
    status, text, _ = ask(RECIPE, '--gpus', '8', '--batch-size', '4', '--accumulate', '1', '--rule', 'linear')
    assert status == 0 and 'chosen: 8 x 4 x A1 = 32, good' in text
    assert 'chosen: 4 x 3 x A4 = 48' in ask(RECIPE, '--cfg-options', 'optim_wrapper.accumulative_counts=4')[1]


def test_a_total_batch_by_flag_takes_the_place_of_one_factor_of_the_config(ask):
    assert 'chosen: 4 x 3 x A3 = 36' in ask(RECIPE, '--total-batch-size', '36')[1]
    assert 'chosen: 4 x 4 x A2 = 32' in ask(RECIPE, '--total-batch-size', '32', '--accumulate', '2')[1]
    status, text, _ = ask(RECIPE, '--total-batch-size', '32')
    assert status == 1 and '32 / (4 x 3) = 2.667' in text


def test_json_tells_the_same(ask):
    status, text, _ = ask(*ISSUE, '--json')
    told = json.loads(text)
    plans = {(entry['samples_per_rank'], entry['accumulative_counts']): entry for entry in told['plans']}
    assert status == 1 and told['reference_updates'] == 23_172 and plans[3, 8]['updates'] == 7_724
    assert plans[3, 3]['lr'] == pytest.approx(dict(linear=2.25e-4, sqrt=2.12132e-4, none=2e-4), rel=1e-5)
    assert plans[3, 3]['chosen'] and plans[2, 4]['recommended'] and len(told['findings']) == 1


@pytest.mark.parametrize(
    'argv, message',
    [
        (['--gpus', '4'], 'give --base-batch-size, the total batch that the LR was tuned for'),
        (['--base-batch-size', '32'], 'give --gpus'),
        (['nowhere.py'], 'there is no config nowhere.py'),
        ([str(ROOT / 'configs/bevfusion_demo.py'), '--gpus', '1'], 'give --samples, the samples an epoch'),
        ([*ISSUE, '--accumulate', '8', '--total-batch-size', '32'], '4 x 3 x A8 = 96 is not the total_batch_size of 32'),
        (['--gpus', '4', '--base-batch-size', '32', '--batch-size', '0'], '--batch-size must be >= 1, got 0'),
        ([*ISSUE, '--gpu-memory', '24'], "need a config's model, got no config"),
        ([RECIPE, '--gpu-memory', '0'], '--gpu-memory must be positive, got 0.0'),
        ([RECIPE, '--with-cp'], 'add --gpu-memory 24 or --probe'),
        ([RECIPE, '--precision', 'float16'], 'add --gpu-memory 24 or --probe'),
        ([RECIPE, '--measured', 'gpu.json'], 'add --gpu-memory 24 or --probe'),
    ],
)
def test_questions_that_cannot_be_answered_say_why(ask, argv, message):
    status, text, error = ask(*argv)
    assert (status, text) == (2, '') and message in error


@pytest.mark.skipif(torch.cuda.is_available(), reason='this machine has a GPU')
def test_probing_without_a_gpu_says_so(ask):
    status, _, error = ask(RECIPE, '--probe')
    assert status == 2 and 'torch finds none' in error


def test_help_shows_an_example(plan, capsys):
    with pytest.raises(SystemExit) as leave:
        plan.parse_args(['--help'])
    assert leave.value.code == 0 and 'python tools/plan.py --gpus 4 --batch-size 3' in capsys.readouterr().out


def test_memory_is_told_for_every_b_and_in_detail_for_the_chosen_plan(ask):
    config = str(ROOT / 'configs/bevfusion_demo.py')
    common = [config, '--gpus', '2', '--samples', '640', '--base-batch-size', '16']
    status, text, _ = ask(*common, '--batch-size', '2', '--accumulate', '4', '--gpu-memory', '24')
    assert status == 0 and 'memory of a GPU with the chosen plan, GiB' in text and 'gradients in flight (estimate)' in text
    told = {
        precision: json.loads(ask(*common, '--gpu-memory', '1.6', '--precision', precision, '--json')[1])
        for precision in ('float32', 'float16')
    }
    needs = {precision: {entry['samples_per_rank']: entry['memory_gib'] for entry in answer['plans']} for precision, answer in told.items()}
    assert list(needs['float32'].values()) == sorted(needs['float32'].values())
    assert needs['float16'][8] < needs['float32'][8]
    assert any('GiB' in fault for entry in told['float32']['plans'] for fault in entry['faults'])
    chosen = next(entry for entry in told['float32']['plans'] if entry['chosen'])
    assert chosen['memory_gib'] <= 0.9 * 1.6
    assert sum(told['float32']['memory_bytes'].values()) / 1024**3 == pytest.approx(chosen['memory_gib'])


def test_it_answers_from_any_directory_without_mmdet3d(tmp_path):
    script = (
        f'import runpy, sys\nsys.argv = ["plan.py", {RECIPE!r}]\n'
        f'try: runpy.run_path({str(ROOT / "tools/plan.py")!r}, run_name="__main__")\n'
        'except SystemExit as leave: assert leave.code == 1, leave.code\n'
        'assert "mmdet3d" not in sys.modules\n'
    )
    result = subprocess.run([sys.executable, '-c', script], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert 'chosen: 4 x 3 x A8 = 96' in result.stdout
