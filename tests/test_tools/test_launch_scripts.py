"""The shell scripts that start several processes, as far as the command they end in."""

import os
import subprocess
import sys

import pytest
from tool_loading import TOOLS

TORCHRUN = [
    '-m',
    'torch.distributed.run',
    '--nnodes={nodes}',
    '--node_rank={rank}',
    '--master_addr={addr}',
    '--master_port={port}',
    '--nproc_per_node=4',
]
ALONE = dict(nodes='1', rank='0', addr='127.0.0.1', port='29500')
SECOND = dict(nodes='2', rank='1', addr='first', port='29511')


@pytest.fixture
def command(tmp_path):
    """A function (script, arguments, environment) that gives the command a script ends in, and its status."""
    for name in ('python', 'srun'):
        (tmp_path / name).write_text(f'#!{sys.executable}\nimport sys\nprint("\\n".join(sys.argv[1:]))\n')
        (tmp_path / name).chmod(0o755)

    def run(script, *arguments, **environment):
        inherited = {name: value for name, value in os.environ.items() if name not in ('NNODES', 'NODE_RANK', 'MASTER_ADDR', 'PORT')}
        environment = dict(inherited, PATH=f'{tmp_path}{os.pathsep}{os.environ["PATH"]}', **environment)
        done = subprocess.run([str(TOOLS / script), *arguments], capture_output=True, text=True, env=environment)
        return done.stdout.splitlines(), done.returncode, done.stderr

    return run


@pytest.mark.parametrize(
    'environment, expected',
    [({}, ALONE), (dict(NNODES='2', NODE_RANK='1', MASTER_ADDR='first', PORT='29511'), SECOND)],
    ids=['alone', 'second machine'],
)
@pytest.mark.parametrize(
    'script, positional, tool', [('dist_train.sh', ['c.py'], 'train.py'), ('dist_test.sh', ['c.py', 'e.pth'], 'test.py')]
)
def test_the_ranks_of_a_machine_are_started_by_torch(command, script, positional, tool, environment, expected):
    found, status, _ = command(script, *positional, '4', '--work-dir', 'a b', **environment)
    assert status == 0 and found == [
        *(part.format(**expected) for part in TORCHRUN),
        f'{TOOLS}/{tool}',
        *positional,
        '--launcher',
        'pytorch',
        '--work-dir',
        'a b',
    ]


@pytest.mark.parametrize(
    'environment, gpus, per_node, cpus, more',
    [
        ({}, 8, 8, 5, []),
        (dict(GPUS='4'), 4, 4, 5, []),
        (dict(GPUS='16'), 16, 8, 5, []),
        (
            dict(GPUS='16', GPUS_PER_NODE='4', CPUS_PER_TASK='9', SRUN_ARGS='--qos=high --exclusive'),
            16,
            4,
            9,
            ['--qos=high', '--exclusive'],
        ),
    ],
)
def test_slurm_gets_what_mms_script_gives_it(command, environment, gpus, per_node, cpus, more):
    found, status, _ = command('slurm_train.sh', 'part', 'job', 'c.py', 'work dir', '--resume', **environment)
    assert status == 0 and found == [
        '--partition=part',
        '--job-name=job',
        f'--gres=gpu:{per_node}',
        f'--ntasks={gpus}',
        f'--ntasks-per-node={per_node}',
        f'--cpus-per-task={cpus}',
        '--kill-on-bad-exit=1',
        *more,
        'python',
        '-u',
        f'{TOOLS}/train.py',
        'c.py',
        '--work-dir',
        'work dir',
        '--launcher',
        'slurm',
        '--resume',
    ]


@pytest.mark.parametrize(
    'script, arguments', [('dist_train.sh', ['c.py']), ('dist_test.sh', ['c.py', 'e.pth']), ('slurm_train.sh', ['part', 'job', 'c.py'])]
)
def test_too_few_arguments_end_with_the_usage(command, script, arguments):
    found, status, said = command(script, *arguments)
    assert status == 2 and not found and said.startswith('usage: ')
