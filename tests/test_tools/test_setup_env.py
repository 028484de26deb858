import sys
from pathlib import Path

import pytest
from tool_loading import load_tool

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope='module')
def setup_env():
    return load_tool('setup_env')


def test_a_machine_with_everything_passes(setup_env):
    assert setup_env.check_host((3, 11), '/usr/bin/g++', Path(__file__)) is None


@pytest.mark.parametrize('version', [(3, 9), (3, 13)])
def test_other_pythons_are_refused(setup_env, version):
    with pytest.raises(setup_env.SetupError, match='Python 3.10 to 3.12 is needed, this is 3.{}'.format(version[1])):
        setup_env.check_host(version, '/usr/bin/g++', Path(__file__))


@pytest.mark.parametrize('compiler, header, missing', [
    (None, Path(__file__), r'^g\+\+ not found'), ('/usr/bin/g++', Path('no/Python.h'), r'^the Python headers \(no/Python.h\)'),
    (None, Path('no/Python.h'), r'g\+\+ and the Python headers')])
def test_what_is_missing_comes_with_the_apt_line(setup_env, compiler, header, missing):
    with pytest.raises(setup_env.SetupError, match=missing) as error:
        setup_env.check_host((3, 11), compiler, header)
    assert 'sudo apt-get install g++ python3.11-dev python3.11-venv' in str(error.value)


def test_a_step_is_done_until_its_requirements_change(setup_env, tmp_path):
    requirements, stamp = tmp_path / 'r.txt', tmp_path / 'stamp'
    requirements.write_text('a')
    assert not setup_env.step_is_done(stamp, setup_env.requirement_key(requirements))
    stamp.write_text(setup_env.requirement_key(requirements))
    assert setup_env.step_is_done(stamp, setup_env.requirement_key(requirements))
    requirements.write_text('b')
    assert not setup_env.step_is_done(stamp, setup_env.requirement_key(requirements))


def test_a_failing_command_is_named(setup_env):
    with pytest.raises(setup_env.SetupError, match='failed with status 3'):
        setup_env.run([sys.executable, '-c', 'raise SystemExit(3)'])
