import dataclasses
from pathlib import Path

import pytest
from mmengine.config import Config

from bevfusion_plugin.doctor import examination, finding
from bevfusion_plugin.doctor.case import Case
from bevfusion_plugin.doctor.examination import all_rules, examine
from bevfusion_plugin.doctor.finding import Problem, rule

CONFIGS = Path(__file__).parents[2] / 'configs'
ALL = dict(all_rules())


@pytest.fixture
def toy_rules(monkeypatch):
    """Three rules of the test's own instead of all."""
    rules = {}
    monkeypatch.setattr(finding, 'RULES', rules)
    monkeypatch.setattr(examination, 'all_rules', lambda: rules)

    @rule('says-info', 'info', 'here.py')
    def info(case):
        yield Problem('an info', 'none')

    @rule('says-both', 'error', 'here.py')
    def both(case):
        yield Problem('a warning', 'none', severity='warning')
        yield Problem('an error', 'set a', dict(a=1))

    @rule('breaks', 'error', 'here.py')
    def breaks(case):
        yield Problem('seen before', 'none')
        raise KeyError('type')

    return rules


@pytest.fixture
def case():
    return Case(Config(dict(a=0)))


def test_rules_come_in_the_order_of_their_modules_whichever_was_imported_first(monkeypatch):
    monkeypatch.setattr(examination, 'RULES', dict(reversed(ALL.items())))
    modules = [each.check.__module__ for each in all_rules().values()]
    assert modules == sorted(modules) and len(modules) == len(ALL)


def test_findings_carry_their_rule_and_come_errors_first(toy_rules, case):
    del toy_rules['breaks']
    assert [(each.rule, each.severity, each.message) for each in examine(case)] == [
        ('says-both', 'error', 'an error'),
        ('says-both', 'warning', 'a warning'),
        ('says-info', 'info', 'an info'),
    ]
    assert examine(case)[0].changes == dict(a=1) and examine(case)[0].evidence == 'here.py'


def test_a_rule_that_raises_is_a_warning_and_the_others_still_speak(toy_rules, case):
    findings = examine(case)
    broken = [each for each in findings if each.rule == 'breaks']
    assert [each.severity for each in broken] == ['error', 'warning']
    assert broken[1].message == "rule breaks could not be decided: KeyError: 'type'"
    assert len(findings) == 5


@pytest.mark.parametrize('is_need, starting, severity', [(True, 'train', 'error'), (True, None, 'warning'), (False, 'train', 'warning')])
def test_a_need_that_cannot_be_decided_stops_a_start(toy_rules, is_need, starting, severity):
    toy_rules['breaks'] = dataclasses.replace(toy_rules['breaks'], is_need=is_need)
    found = examine(Case(Config(dict(a=0)), starting=starting))
    assert [each.severity for each in found if 'could not be decided' in each.message] == [severity]


def test_milder_findings_and_rules_are_left_out(toy_rules, case):
    asked = []
    toy_rules['says-info'] = finding.Rule('says-info', 'info', 'here.py', lambda case: asked.append(1) or iter(()))
    assert [each.message for each in examine(case, 'error')] == ['an error', 'seen before']
    assert not asked


def test_an_unknown_severity_is_refused(case):
    with pytest.raises(ValueError, match="min_severity must be one of error, warning, info, got 'all'"):
        examine(case, 'all')


def test_a_rule_may_not_be_harsher_than_announced(toy_rules, case):
    toy_rules['loud'] = finding.Rule('loud', 'info', 'here.py', lambda case: iter([Problem('a', 'b', severity='error')]))
    with pytest.raises(ValueError, match="rule loud is announced as 'info' and found 'error'"):
        examine(case)


def test_the_config_is_left_as_it_is():
    cfg = Config.fromfile(CONFIGS / 'bevfusion_lidar_4x4090.py')
    before = cfg.to_dict()
    examine(Case(cfg, quick=True))
    assert cfg.to_dict() == before


def test_an_empty_config_has_no_findings():
    assert examine(Case(Config(dict()))) == []


def test_rules_of_all_modules_are_known():
    assert {
        'beta1-too-high',
        'head-grid-differs',
        'checkpoint-mismatch',
        'package-versions',
        'paste-never-ends',
        'object-database',
        'points-changed-in-place',
    } <= ALL.keys()
