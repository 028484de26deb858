import pytest

from bevfusion_plugin.doctor import finding
from bevfusion_plugin.doctor.examination import all_rules

ALL = dict(all_rules())


@pytest.fixture(autouse=True)
def own_rules(monkeypatch):
    monkeypatch.setattr(finding, 'RULES', dict(finding.RULES))


def test_a_rule_is_entered_under_its_name_and_still_is_the_function():
    @finding.rule('test-only', 'warning', 'here')
    def check(case):
        yield finding.Problem('wrong', 'mend it')

    assert finding.RULES['test-only'] == finding.Rule('test-only', 'warning', 'here', check)
    assert [problem.message for problem in check(None)] == ['wrong']


def test_a_name_is_given_once():
    finding.rule('test-only', 'info', 'here')(lambda case: iter(()))
    with pytest.raises(ValueError, match="there is a rule 'test-only' already"):
        finding.rule('test-only', 'info', 'here')(lambda case: iter(()))


def test_an_unknown_severity_is_refused():
    with pytest.raises(ValueError, match="severity must be one of error, warning, info, got 'fatal'"):
        finding.rule('test-only', 'fatal', 'here')


def test_every_rule_has_an_id_of_words_evidence_and_a_sentence():
    assert len(ALL) >= 40
    for name, rule in ALL.items():
        assert name == rule.name and name == name.lower() and '-' in name and ' ' not in name
        assert rule.evidence.startswith('https://') or '.py' in rule.evidence, name
        assert rule.check.__doc__, name
