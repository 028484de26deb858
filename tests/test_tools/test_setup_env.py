import subprocess
import sys
from pathlib import Path

import pytest
from tool_loading import load_tool

PYTHON = Path(sys.executable)


@pytest.fixture()
def setup_env():
    return load_tool('setup_env')


@pytest.fixture()
def commands(setup_env, monkeypatch):
    """What would be run, in order; nothing is, in an environment that is empty."""
    commands = []
    monkeypatch.setattr(setup_env, 'installed_version', lambda python, package: None)
    monkeypatch.setattr(setup_env, 'run', commands.append)
    return commands


@pytest.mark.parametrize('minor', [10, 11, 12, 13])
def test_the_pythons_that_were_tried_pass(setup_env, minor):
    assert setup_env.check_python((3, minor)) is None


@pytest.mark.parametrize('version', [(3, 9), (3, 14)])
def test_other_pythons_are_refused(setup_env, version):
    with pytest.raises(setup_env.SetupError, match=f'Python 3.10 to 3.13 is needed, this is 3.{version[1]}'):
        setup_env.check_python(version)


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


def test_a_new_environment_is_filled_once(setup_env, commands, tmp_path):
    setup_env.make_environment(tmp_path)
    venv, libraries, packages, ours = commands
    assert venv == [sys.executable, '-m', 'venv', str(tmp_path)]
    assert str(setup_env.TORCH) in libraries and '--no-deps' not in libraries
    assert '--no-deps' in packages and {'mmcv-lite', 'mmdet3d'} <= set(packages)
    assert ours[-2:] == ['-e', str(setup_env.ROOT)]
    (tmp_path / 'bin').mkdir()
    (tmp_path / 'bin' / 'python').touch()
    setup_env.make_environment(tmp_path)
    assert len(commands) == 4


def test_a_failed_step_is_taken_again(setup_env, commands, monkeypatch, tmp_path):
    def run(command):
        if '--no-deps' in command:
            raise setup_env.SetupError('no network')

    monkeypatch.setattr(setup_env, 'run', run)
    with pytest.raises(setup_env.SetupError, match='no network'):
        setup_env.make_environment(tmp_path)
    assert sorted(stamp.name for stamp in tmp_path.glob('.step*')) == ['.step0']


def test_the_environment_of_this_python_keeps_its_torch(setup_env, commands, monkeypatch):
    monkeypatch.setattr(setup_env, 'installed_version', lambda python, package: {'torch': '2.8.0+cu128'}.get(package))
    assert setup_env.main(['--here']) == 0
    assert len(commands) == 3 and all(command[0] == sys.executable for command in commands)
    assert 'torch==2.8.0+cu128' in commands[0]
    assert not {str(setup_env.TORCH), str(setup_env.TEST), 'numpy<2'} & set(commands[0])


def test_without_torch_it_says_what_comes_first(setup_env, commands, capsys):
    assert setup_env.main(['--here']) == 1
    assert 'there is no torch' in capsys.readouterr().err and not commands


@pytest.mark.parametrize(
    'torch, numpy, kept',
    [
        ('2.1.2+cu121', None, ['torch==2.1.2+cu121', 'numpy<2']),
        ('2.3.0', None, ['torch==2.3.0']),
        ('2.4.1', '1.26.4', ['torch==2.4.1', 'numpy<2']),
        ('2.10.0a0+b4e4ee8', '2.1.3', ['torch==2.10.0a0+b4e4ee8']),
    ],
)
def test_numpy_1_stays_where_it_is_installed_or_torch_was_built_for_it(setup_env, torch, numpy, kept):
    assert setup_env.kept_versions(torch, numpy) == kept


def test_a_compiled_mmcv_stays_in_place_of_mmcv_lite(setup_env):
    assert 'mmcv-lite' in setup_env.packages_without_dependencies(compiled_mmcv=None)
    packages = setup_env.packages_without_dependencies(compiled_mmcv='2.1.0')
    assert 'mmcv-lite' not in packages and 'mmdet3d' in packages
    assert not [line for line in packages if '#' in line]


def test_versions_are_those_of_the_environments_own_python(setup_env):
    assert setup_env.installed_version(PYTHON, 'pytest') == pytest.__version__
    assert setup_env.installed_version(PYTHON, 'no-such-package') is None


def test_it_needs_no_package(setup_env):
    done = subprocess.run([sys.executable, '-I', '-S', setup_env.__spec__.origin, '--help'], capture_output=True, text=True)
    assert done.returncode == 0 and '--here' in done.stdout, done.stderr


def test_an_installed_package_brings_all_but_itself(setup_env, commands, monkeypatch):
    monkeypatch.setattr(setup_env, 'installed_version', lambda python, package: {'torch': '2.8.0'}.get(package))
    monkeypatch.setattr(setup_env, 'IS_CHECKOUT', False)
    assert setup_env.main(['--here']) == 0
    assert len(commands) == 2 and not [command for command in commands if '-e' in command]


def test_an_installed_package_makes_no_environment(setup_env, commands, monkeypatch, capsys):
    monkeypatch.setattr(setup_env, 'IS_CHECKOUT', False)
    assert setup_env.main([]) == 1
    assert 'add --here' in capsys.readouterr().err and not commands
