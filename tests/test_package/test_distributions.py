"""The wheel holds what `bevfusion` and mim look for, the sdist all that it takes to build and test; both work from elsewhere."""

import json
import re
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
import yaml
from built_wheel import ROOT, SMALL_DATA, SOURCES, build

from bevfusion_plugin import __version__

PACKAGED = ('configs', 'tools', 'requirements')


@pytest.fixture(scope='module')
def built(tmp_path_factory):
    return build(tmp_path_factory.mktemp('distributions'))


def files_below(folder):
    return {path.relative_to(folder) for path in folder.rglob('*') if path.is_file() and path.suffix != '.pyc'}


def test_the_wheel_holds_the_package_and_what_mim_looks_for(built):
    names = set(zipfile.ZipFile(built.wheel).namelist())
    expected = {f'bevfusion_plugin/{path}' for path in files_below(ROOT / 'bevfusion_plugin') if path.suffix in ('.py', '.gz')}
    expected |= {f'bevfusion_plugin/.mim/{folder}/{path}' for folder in PACKAGED for path in files_below(ROOT / folder)}
    expected |= {'bevfusion_plugin/.mim/model-index.yml', 'bevfusion_command.py'}
    information = f'bevfusion_plugin-{__version__}.dist-info'
    assert expected <= names
    assert {name for name in names - expected if not name.startswith(information)} == set()
    assert {f'{information}/licenses/LICENSE', f'{information}/licenses/NOTICE'} <= names


def test_shell_scripts_stay_executable(built):
    scripts = list((built.installed / 'bevfusion_plugin' / '.mim' / 'tools').glob('*.sh'))
    assert scripts and all(script.stat().st_mode & 0o111 for script in scripts)


def test_the_metadata_name_licence_python_extras_and_command(built):
    information = built.installed / f'bevfusion_plugin-{__version__}.dist-info'
    metadata = Parser().parsestr((information / 'METADATA').read_text())
    assert metadata['Version'] == __version__ and metadata['License-Expression'] == 'Apache-2.0'
    assert metadata['Requires-Python'] == '<3.14,>=3.10' and metadata['Author']
    assert set(metadata.get_all('Provides-Extra')) == {'gpu', 'test', 'lint'}
    optional = [line for line in metadata.get_all('Requires-Dist') if 'extra ==' in line]
    assert optional and all('<' in line for line in optional), 'an extra needs an upper bound'
    assert 'bevfusion = bevfusion_command:main' in (information / 'entry_points.txt').read_text()


def test_the_sdist_has_all_that_this_checkout_tests_and_builds_with(built):
    for folder in SOURCES:
        assert files_below(ROOT / folder) == files_below(built.sources / folder), folder
    for name in (
        'LICENSE',
        'NOTICE',
        'CITATION.cff',
        'CHANGELOG.md',
        'CONTRIBUTING.md',
        'Makefile',
        'README.md',
        'README_zh-CN.md',
        'setup.py',
        'pyproject.toml',
        'mkdocs.yml',
        'model-index.yml',
        '.pre-commit-config.yaml',
    ):
        assert (built.sources / name).read_bytes() == (ROOT / name).read_bytes()


def test_the_installed_command_plans_and_examines_a_packaged_config_from_another_folder(built, tmp_path):
    planned = built.run(tmp_path, 'plan', 'bevfusion_4x4090_b32.py', '--json')
    assert planned.returncode == 0, planned.stderr
    (chosen,) = [plan for plan in json.loads(planned.stdout)['plans'] if plan['chosen']]
    assert chosen['total_batch_size'] == 32 and chosen['samples_per_rank'] == 2
    assert str(built.installed / 'bevfusion_plugin' / '.mim' / 'configs' / 'bevfusion_4x4090_b32.py') in planned.stderr
    examined = built.run(tmp_path, 'doctor', 'bevfusion_demo.py', '--json')
    assert examined.returncode in (0, 1), examined.stderr  # 1: there are no data in this folder
    assert all(finding['rule'] for finding in json.loads(examined.stdout)['findings'])
    assert not list(tmp_path.iterdir())


def test_an_installed_package_makes_no_environment_inside_itself(built, tmp_path):
    refused = built.run(tmp_path, 'setup-env')
    assert refused.returncode == 1 and 'add --here' in refused.stderr


@pytest.mark.slow
def test_the_installed_command_trains_a_packaged_config_from_another_folder(built, tmp_path):
    for command in (
        *SMALL_DATA,
        'train bevfusion_demo.py --gpus 1 --seed 0 --cfg-options train_cfg.max_epochs=1 train_cfg.val_begin=9 param_scheduler.0.end=1'.split(),
    ):
        done = built.run(tmp_path, *command)
        assert done.returncode == 0, f'{command}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}'
    assert (tmp_path / 'work_dirs' / 'bevfusion_demo' / 'epoch_1.pth').is_file()


def test_the_model_index_names_every_recipe_with_its_batch_and_epochs():
    from bevfusion_plugin.launch.config_file import load_config

    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    models = {model['Config']: model for model in index['Models']}
    assert set(models) == {f'configs/{path.name}' for path in (ROOT / 'configs').glob('*.py')}
    for path, model in models.items():
        cfg = load_config(ROOT / path)
        assert model['Name'] == Path(path).stem and model['Metadata']['Epochs'] == cfg.max_epochs
        is_auto = cfg.optim_wrapper.get('accumulative_counts') == 'auto'
        total = cfg.total_batch_size if is_auto else cfg.num_gpus * cfg.samples_per_gpu * cfg.optim_wrapper.get('accumulative_counts', 1)
        assert model['Metadata']['Batch Size'] == total, path
        assert 'Results' not in model, 'a score needs the run that made it'


def test_the_citation_and_the_changelog_know_the_version():
    assert yaml.safe_load((ROOT / 'CITATION.cff').read_text())['version'] == __version__
    assert re.search(rf'^## {re.escape(__version__)}\b', (ROOT / 'CHANGELOG.md').read_text(), re.MULTILINE)
