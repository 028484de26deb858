"""benchmarks/gpu.py at toy size on the CPU: it works the first time that somebody has a GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / 'benchmarks'))

from on_gpu import rows, stages  # noqa: E402
from on_gpu.page import page  # noqa: E402


@pytest.fixture(scope='module')
def written(tmp_path_factory):
    """The folder that a run at toy size has written."""
    folder = tmp_path_factory.mktemp('gpu')
    command = [sys.executable, 'benchmarks/gpu.py', '--device', 'cpu', '--small', '--samples', '1', '--steps', '1', '--out', str(folder)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment())
    assert result.returncode == 0, result.stderr
    return folder


def environment():
    """Of a process on the CPU that takes this checkout."""
    return {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': ''}


@pytest.fixture(scope='module')
def record(written):
    return json.loads((written / 'gpu.json').read_text())


def test_every_row_of_the_table_is_measured(record):
    found = {(row['backend'], row['dtype'], row['with_cp'], row['samples']) for row in record['rows']}
    assert found == {('torch', dtype, with_cp, 1) for dtype in ('float16', 'bfloat16', 'float32') for with_cp in (False, True)}
    assert all(row['step_ms'] > 0 and row['samples_per_second'] > 0 and row['skipped'] == 0 for row in record['rows']), record['rows']
    assert record['complete'] and record['toy'] and record['machine']['name'] == 'a CPU'


def test_stages_make_up_the_step(record):
    times = record['stages']['ms']
    assert set(times) == {*stages.STAGES, 'whole step'} and all(time > 0 for time in times.values())
    assert 0.7 * times['whole step'] < sum(times.values()) - times['whole step'] < 1.05 * times['whole step']
    assert record['counts']['counts']['operations'] > 1000 and record['counts']['backend'] == 'torch'


def test_a_resumed_training_is_the_uninterrupted_one_and_accumulation_has_a_price(record):
    resumed, window = record['promises'].values()
    assert resumed == dict(bit_for_bit=True, resumed_from_uninterrupted=0, two_resumed_runs=0)
    assert window['micro_batches'] == 4 and window['ratio_to_bare'] > 0


def test_the_page_holds_the_record(written, record):
    text = (written / 'gpu.md').read_text()
    assert text == page(record) and '**Toy size' in text and 'The time ran out' not in text
    for row in record['rows']:
        assert f'| {row["samples_per_second"]:.2f} |' in text
    for words in ('# Measured on a CPU', '| sparse encoder |', '| operations |', 'bit for bit True', torch.__version__):
        assert words in text


def test_a_row_that_runs_out_of_memory_is_a_row(monkeypatch, record):
    def fail(*args, **kwargs):
        raise torch.cuda.OutOfMemoryError('CUDA out of memory. Tried to allocate 2 GiB')

    monkeypatch.setattr(rows, 'Training', fail)
    row = dict(backend='torch', dtype='float16', with_cp=False, samples=4)
    found = rows.measured(None, 'cpu', row, 1, 1.0)
    assert found == row | dict(error='out of memory')
    text = page(record | dict(rows=[found], complete=False))
    assert '| torch | float16 | off | 4 | out of memory |' in text and 'The time ran out' in text


def test_any_other_error_is_a_row_too(monkeypatch):
    monkeypatch.setattr(rows, 'Training', lambda *args, **kwargs: 1 / 0)
    assert rows.measured(None, 'cpu', dict(backend='torch', samples=1, dtype='float16', with_cp=False), 1, 1.0)['error'] == (
        'ZeroDivisionError: division by zero'
    )


def test_launches_and_waits_are_told_from_the_profilers_names():
    names = [
        'cudaLaunchKernel',
        'cudaLaunchKernel',
        'cuLaunchKernel',
        'aten::add',
        'cudaStreamSynchronize',
        'cudaMemcpyAsync',
        'Memcpy HtoD (Pageable -> Device)',
        'Memcpy DtoH (Device -> Pageable)',
        'Memset (Device)',
    ]
    assert stages.counted(names) == dict(launches=3, waits=1, copies_to_device=1, copies_to_host=1, operations=1)


def test_packages_come_first_and_have_no_bfloat16(monkeypatch):
    monkeypatch.setattr('importlib.util.find_spec', lambda name: name == 'spconv_triton')
    found = rows.settings('cuda', [1, 2])
    assert [row['backend'] for row in found[::8]] == ['spconv_triton', 'torch', 'torch'] and found[0]['samples'] == 1
    assert not [row for row in found if row['backend'] != 'torch' and row['dtype'] == 'bfloat16']


@pytest.mark.skipif(torch.cuda.is_available(), reason='this machine has a GPU')
def test_without_a_gpu_it_says_so_and_writes_nothing(tmp_path):
    result = subprocess.run(
        [sys.executable, 'benchmarks/gpu.py', '--out', str(tmp_path)], cwd=ROOT, capture_output=True, text=True, env=environment()
    )
    assert result.returncode == 0 and 'torch finds no GPU' in result.stdout and not list(tmp_path.iterdir())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA GPU')
def test_a_gpus_step_has_launches_waits_and_a_highest_memory(tmp_path):
    command = [sys.executable, 'benchmarks/gpu.py', '--small', '--samples', '1', '--steps', '1', '--out', str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True)
    record = json.loads((tmp_path / 'gpu.json').read_text())
    assert record['counts']['counts']['launches'] > 1000 and record['rows'][0]['gib'] > 0.05
