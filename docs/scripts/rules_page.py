"""Write docs/doctor_rules.md: the doctor's rules one by one, each with its severity, what it asks and the evidence behind it.

Examples:
    python docs/scripts/rules_page.py
    python docs/scripts/rules_page.py --check
"""

from __future__ import annotations

import argparse
import inspect
import sys
from itertools import groupby
from pathlib import Path

from bevfusion_plugin.doctor.examination import all_rules
from bevfusion_plugin.doctor.finding import Rule

PAGE = Path(__file__).resolve().parents[1] / 'doctor_rules.md'
OPENING = """# The doctor's rules

Written by `docs/scripts/rules_page.py` from the rules themselves; do not edit. {count} rules: {errors} stop a run (error), {warnings} warn, {infos} inform.

```bash
python tools/doctor.py configs/bevfusion.py --gpus 4    # what they find, with the mend
```

A rule at error level also runs in front of every training (`tools/train.py`). `--fix OUT.py` writes a config with the mends that are certain.
Evidence is where somebody met the fault, or the file of the library that behaves so."""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--check', action='store_true', help='write nothing; exit status 1 if the page is not up to date')
    return parser.parse_args(argv)


def subject(rule: Rule) -> str:
    """What the file that the rule stands in is about, as a heading."""
    words = inspect.getdoc(inspect.getmodule(rule.check)).partition('\n')[0].rstrip('.').replace('``', '`')
    words = words.removeprefix('Rules about ').removeprefix('Rules ')
    return words[0].upper() + words[1:]


def section(rule: Rule) -> str:
    """One rule."""
    question = inspect.getdoc(rule.check).replace('``', '`')
    evidence = f'<{rule.evidence}>' if rule.evidence.startswith('http') else f'`{rule.evidence}`'
    need = ', and asked of a trial run too' if rule.is_need else ''
    return f'### {rule.name}\n\n**{rule.severity}**{need}\n\n{question}\n\nEvidence: {evidence}'


def page() -> str:
    """The whole page."""
    rules = list(all_rules().values())
    counts = {severity: sum(rule.severity == severity for rule in rules) for severity in ('error', 'warning', 'info')}
    parts = [OPENING.format(count=len(rules), errors=counts['error'], warnings=counts['warning'], infos=counts['info'])]
    for title, group in groupby(sorted(rules, key=subject), key=subject):
        parts += [f'## {title}', *(section(rule) for rule in sorted(group, key=lambda rule: rule.name))]
    return '\n\n'.join(parts) + '\n'


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0, 1 if ``--check`` finds that the page is not up to date."""
    args, text = parse_args(argv), page()
    is_stale = not PAGE.is_file() or PAGE.read_text() != text
    if is_stale and not args.check:
        PAGE.write_text(text)
    if is_stale:
        print(f'{PAGE.name}: {"not up to date; run python docs/scripts/rules_page.py" if args.check else "written"}')
    return int(is_stale and args.check)


if __name__ == '__main__':
    sys.exit(main())
