"""The pages that are written from the code are up to date, and every page is in the site's contents."""

import importlib.util
import re

import pytest
import yaml
from page_reading import ROOT

from bevfusion_plugin import registry
from bevfusion_plugin.doctor.examination import all_rules

SCRIPTS = ROOT / 'docs' / 'scripts'


def load_script(name):
    spec = importlib.util.spec_from_file_location(f'{name}_script', SCRIPTS / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def rules_page():
    return load_script('rules_page')


def test_the_page_of_rules_is_up_to_date(rules_page):
    assert rules_page.main(['--check']) == 0, 'run python docs/scripts/rules_page.py'


def test_every_rule_is_there_once_with_its_evidence(rules_page):
    text = rules_page.page()
    assert re.findall(r'^### (\S+)$', text, re.MULTILINE) and len(all_rules()) == len(re.findall(r'^### ', text, re.MULTILINE))
    for name, rule in all_rules().items():
        section = text.split(f'\n### {name}\n')[1].split('\n## ')[0].split('\n### ')[0]
        assert rule.evidence in section and f'**{rule.severity}**' in section


def test_check_says_what_to_run_and_writes_nothing(rules_page, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(rules_page, 'PAGE', tmp_path / 'doctor_rules.md')
    assert rules_page.main(['--check']) == 1 and not list(tmp_path.iterdir())
    assert 'docs/scripts/rules_page.py' in capsys.readouterr().out
    assert rules_page.main([]) == 0 and rules_page.main(['--check']) == 0


def test_the_table_of_parts_names_all_that_is_registered():
    listed = set(re.findall(r'`(\w+)`', (ROOT / 'docs' / 'parts.md').read_text().split('| part |')[1]))
    for name in (
        'PARAM_SCHEDULERS',
        'OPTIM_WRAPPERS',
        'OPTIM_WRAPPER_CONSTRUCTORS',
        'HOOKS',
        'DATA_SAMPLERS',
        'MODELS',
        'TASK_UTILS',
        'TRANSFORMS',
        'DATASETS',
        'METRICS',
    ):
        registered = getattr(registry, name)
        registered.import_from_location()
        assert set(registered.module_dict) <= listed, name


def test_every_page_is_in_the_contents():
    def pages(entries):
        for entry in entries:
            title, place = next(iter(entry.items()))
            yield from pages(place) if isinstance(place, list) else [place]

    contents = list(pages(yaml.safe_load((ROOT / 'mkdocs.yml').read_text())['nav']))
    assert sorted(contents) == sorted(str(path.relative_to(ROOT / 'docs')) for path in (ROOT / 'docs').rglob('*.md'))


def test_pages_show_only_pictures_that_are_there():
    for path in (ROOT / 'docs').rglob('*.md'):
        for picture in re.findall(r'!\[[^\]]+\]\(([^)]+)\)', path.read_text()):
            assert (path.parent / picture).is_file(), f'{path.name}: {picture}'


def test_the_figures_say_what_the_schedules_do():
    traces = load_script('figures').traces()
    ours, stock, scaled = (trace for trace, _, _ in traces.values())
    assert ours.updates == stock.updates == 23172
    assert ours.lr.max() == pytest.approx(2e-4) and scaled.lr.max() == pytest.approx(
        5e-5, rel=1e-3
    )  # 4 x 2 of 32: accumulation is overlooked
    assert ours.warmup_end == 500 and stock.warmup_end == 499 // 4  # it counts micro-batches, 4 an update
    assert ours.beta1.min() == pytest.approx(0.9 * 0.85 / 0.95, abs=1e-6) and ours.beta1[-1] == pytest.approx(0.9, abs=1e-6)
    assert stock.beta1[-1] == pytest.approx(1, abs=1e-6)
    rooms = {name.rstrip('/') for floor in load_script('figures').ROOMS[1:] for name in floor}
    inside = {path.name for path in (ROOT / 'bevfusion_plugin').iterdir() if (path / '__init__.py').is_file()}
    assert inside | {'registry.py'} == rooms
