"""`bevfusion COMMAND` becomes the tool of that name, wherever the package lies."""

import os
import subprocess
import sys
from types import SimpleNamespace

import bevfusion_command
import pytest
from tool_loading import TOOLS

NAMES = sorted(path.stem.replace('_', '-') for path in TOOLS.glob('*.py'))


@pytest.fixture()
def executed(monkeypatch):
    """What the command would become."""
    executed = []
    monkeypatch.setattr(os, 'execv', lambda path, command: executed.append((path, command)))
    return executed


@pytest.mark.parametrize('name', NAMES)
def test_every_tool_is_a_command(name, executed):
    bevfusion_command.main([name, 'x.py', '--help'])
    assert executed == [(sys.executable, [sys.executable, str(TOOLS / f'{name.replace("-", "_")}.py'), 'x.py', '--help'])]


def test_help_lists_every_command_with_what_it_is_for(capsys):
    assert bevfusion_command.main(['--help']) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in NAMES:
        (line,) = [line for line in lines if line.startswith(f'  {name} ')]
        assert len(line.split()) > 3


def test_browse_is_short_for_the_tool_with_mms_name(executed):
    bevfusion_command.main(['browse', 'x.py'])
    assert executed == [(sys.executable, [sys.executable, str(TOOLS / 'browse_dataset.py'), 'x.py'])]


def test_without_a_command_the_status_is_that_of_a_mistake(capsys):
    assert bevfusion_command.main([]) == 2 and 'usage: bevfusion' in capsys.readouterr().out


def test_an_unknown_command_is_named_with_those_there_are(executed, capsys):
    assert bevfusion_command.main(['tarin', 'x.py']) == 2 and not executed
    assert "no command 'tarin'" in capsys.readouterr().err


def test_the_installed_packages_own_tools_are_taken(monkeypatch, tmp_path):
    tools = tmp_path / 'site-packages' / 'bevfusion_plugin' / '.mim' / 'tools'
    tools.mkdir(parents=True)
    (tools / 'plot_schedule.py').write_text('"""Draws."""')
    (tools / 'dist_train.sh').touch()
    origin = str(tools.parents[1] / '__init__.py')
    monkeypatch.setattr('importlib.util.find_spec', lambda name: SimpleNamespace(origin=origin))
    assert bevfusion_command.commands() == {'plot-schedule': tools / 'plot_schedule.py'}


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    with pytest.raises(ModuleNotFoundError, match='bevfusion_plugin is not installed'):
        bevfusion_command.commands()


def test_it_needs_no_package():
    script = bevfusion_command.__file__
    done = subprocess.run([sys.executable, '-S', script, '--help'], capture_output=True, text=True, cwd=TOOLS.parent)
    assert done.returncode == 0 and 'setup-env' in done.stdout, done.stderr


def test_the_tools_exit_status_and_output_are_the_commands(tmp_path):
    command = [sys.executable, bevfusion_command.__file__, 'doctor', 'nowhere.py']
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and 'there is no config nowhere.py; the packaged ones are bevfusion.py, ' in done.stderr
