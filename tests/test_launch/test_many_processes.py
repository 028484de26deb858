"""Trainings of several real processes: two machines, one rank lost, the launcher lost, two runs in one folder."""

import os
import pickle
import signal

import pytest
import torch
from launched_tools import ROOT, TRAIN, dist_train, free_port

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason='the processes are to meet on the CPU')


def hook(kind, **settings):
    return f'custom_hooks.append(dict(type="failing_ranks.{kind}", **{settings!r}))\n'


def weights(folder, epoch=2):
    return torch.load(folder / f'epoch_{epoch}.pth')['state_dict']


def log_of(work_dir):
    return next(work_dir.glob('*/*.log')).read_text()


def assert_same(got, expected):
    for key, value in expected.items():
        torch.testing.assert_close(got[key], value, rtol=1e-12, atol=1e-14)


def test_four_processes_and_two_machines_of_one_train_as_one_process_does(launch, config, tmp_path):
    path = config('train_dataloader["dataset"].update(length=28)\n')  # of 8 an update: the fourth update of an epoch has 4
    alone = launch([*TRAIN, path, '--work-dir', tmp_path / 'one'])
    port = free_port()
    nodes = [launch(dist_train(1, path, '--work-dir', tmp_path / 'nodes'), NNODES='2', NODE_RANK=str(rank), PORT=port) for rank in range(2)]
    assert [each.end() for each in (alone, *nodes)] == [0, 0, 0], alone.output[-2000:] + nodes[0].output[-3000:]
    four = launch(dist_train(4, path, '--work-dir', tmp_path / 'four'), PORT=free_port())
    assert four.end() == 0, four.output[-3000:]
    expected = weights(tmp_path / 'one')
    assert_same(weights(tmp_path / 'nodes'), expected)
    assert_same(weights(tmp_path / 'four'), expected)
    assert 'an update sees 2 x 2 x A2 = 8 samples' in log_of(tmp_path / 'nodes')


def test_two_processes_test_every_sample_once(launch, config, tmp_path):
    path = config(
        "test_dataloader = dict(train_dataloader, sampler=dict(type='DefaultSampler', shuffle=False), "
        "dataset=dict(type='toy_training.ToyData', length=15))\n"
        f"test_cfg = dict()\ntest_evaluator = dict(type='DumpResults', out_file_path='{tmp_path}/results.pkl')\n"
    )
    torch.save(dict(state_dict={}), tmp_path / 'toy.pth')
    run = launch([ROOT / 'tools' / 'dist_test.sh', path, tmp_path / 'toy.pth', '2', '--work-dir', tmp_path / 'test'], PORT=free_port())
    assert run.end() == 0, run.output[-3000:]
    assert len(pickle.loads((tmp_path / 'results.pkl').read_bytes())) == 15


def test_a_rank_that_raises_ends_the_other_and_its_error_stands_in_the_log_and_as_root_cause(launch, config, tmp_path):
    run = launch(dist_train(2, config(hook('DeserterHook')), '--work-dir', tmp_path / 'run'), PORT=free_port())
    assert run.end() == 1
    cause = 'RuntimeError: rank 1 has lost its data'
    assert cause in log_of(tmp_path / 'run') and 'rank 1 on ' in log_of(tmp_path / 'run')
    assert cause in run.output.partition('Root Cause')[2] and 'terminate called' not in run.output


def test_a_rank_that_vanishes_ends_the_other_too(launch, config, tmp_path):
    run = launch(dist_train(2, config(hook('VanishingHook')), '--work-dir', tmp_path / 'run'), PORT=free_port())
    assert run.end() == 1
    assert 'exitcode  : 7' in run.output and not list((tmp_path / 'run').glob('*.pth'))


def test_the_ranks_of_a_killed_launcher_end_and_the_run_is_resumed_at_once(launch, config, tmp_path):
    path = config(hook('StandingHook', go=str(tmp_path / 'go'), iteration=4))
    arguments = (path, '--work-dir', tmp_path / 'run', '--resume')
    run = launch(dist_train(2, *arguments), PORT=free_port())
    run.read_until('stands still', times=2)
    run.process.kill()
    run.read_until('SIGTERM: the training stops')
    (tmp_path / 'go').touch()
    run.end()  # the ranks write to the same pipe, which ends with the last of them
    assert (tmp_path / 'run' / 'epoch_1.pth').is_file() and not (tmp_path / 'run' / 'epoch_2.pth').exists()
    resumed = launch(dist_train(2, *arguments), PORT=free_port())
    whole = launch([*TRAIN, path, '--work-dir', tmp_path / 'whole'])
    assert resumed.end() == whole.end() == 0, resumed.output[-3000:]
    assert_same(weights(tmp_path / 'run'), weights(tmp_path / 'whole'))


def test_a_second_training_in_a_work_dir_is_refused_and_the_first_goes_on(launch, config, tmp_path):
    path = config(hook('StandingHook', go=str(tmp_path / 'go'), iteration=2))
    first = launch([*TRAIN, path, '--work-dir', tmp_path / 'run'])
    first.read_until('stands still')
    before = sorted((tmp_path / 'run').rglob('*'))
    for command in ([*TRAIN, path, '--work-dir', tmp_path / 'run'], dist_train(2, path, '--work-dir', tmp_path / 'run')):
        second = launch(command, PORT=free_port())
        assert second.end() == (2 if command[0] == TRAIN[0] else 1)
        assert f'run is in use by the training of process {first.process.pid} on ' in second.output
        assert 'or choose another --work-dir' in second.output
    assert sorted((tmp_path / 'run').rglob('*')) == before
    (tmp_path / 'go').touch()
    assert first.end() == 0 and (tmp_path / 'run' / 'epoch_2.pth').is_file() and not list((tmp_path / 'run').glob('.*'))


def test_a_killed_training_blocks_none_that_resumes_it(launch, config, tmp_path):
    path = config('train_dataloader.update(num_workers=1)\n' + hook('StandingHook', go=str(tmp_path / 'go'), iteration=6))
    first = launch([*TRAIN, path, '--work-dir', tmp_path / 'run'])
    first.read_until('stands still')
    os.kill(first.process.pid, signal.SIGKILL)
    first.process.wait()
    (tmp_path / 'go').touch()
    assert launch([*TRAIN, path, '--work-dir', tmp_path / 'run', '--resume']).end() == 0
