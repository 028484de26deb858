"""The two READMEs say the same, section by section."""

import re
from collections import Counter

import pytest
from page_reading import ROOT, blocks, code, heading_levels, table_shapes, without_blocks

ENGLISH, CHINESE = ((ROOT / name).read_text() for name in ('README.md', 'README_zh-CN.md'))
PAIRS = [('README.md', 'README_zh-CN.md'), *((f'docs/{name}.md', f'docs/zh/{name}.md') for name in ('index', 'configs', 'faq'))]
NUMBERS = re.compile(r'(?<![\w.#-])\d+(?:[.,]\d+)*(?![\w-])')


@pytest.fixture(params=PAIRS, ids=[pair[0] for pair in PAIRS])
def pair(request):
    return [(ROOT / name).read_text() for name in request.param]


def test_headings_have_the_same_levels(pair):
    english, chinese = map(heading_levels, pair)
    assert english == chinese and english[0] == 1


def test_tables_have_the_same_shapes(pair):
    english, chinese = map(table_shapes, pair)
    assert english == chinese


def test_code_is_the_same_but_for_comments(pair):
    english, chinese = ([(block.language, code(block)) for block in blocks(text)] for text in pair)
    assert english == chinese and english


def test_pictures_are_the_same(pair):
    english, chinese = (re.findall(r'!\[[^\]]*\]\((?:\.\./)?([^)]+)\)', text) for text in pair)
    assert english == chinese


def test_names_of_files_and_settings_are_the_same(pair):
    """What stands in backticks outside code, as often: a sentence that one of them lacks shows here."""
    english, chinese = (Counter(re.findall(r'`([^`\n]+)`', without_blocks(text))) for text in pair)
    placeholder = {'--cfg-options load_from=FILE': '--cfg-options load_from=文件'}
    assert {placeholder.get(name, name) for name in english} == set(chinese)


def test_numbers_of_the_readmes_are_the_same():
    english, chinese = (set(NUMBERS.findall(re.sub(r'\(http[^)]*\)', '', without_blocks(text)))) for text in (ENGLISH, CHINESE))
    assert english == chinese


@pytest.mark.parametrize('name', ['README.md', 'README_zh-CN.md', 'CONTRIBUTING.md'])
def test_links_into_the_repository_lead_somewhere(name):
    text = without_blocks((ROOT / name).read_text())
    for target in re.findall(r'\]\((?!http)([^)]+)\)', text):
        path, _, anchor = target.partition('#')
        assert (ROOT / path).is_file(), target
        if anchor:
            headings = re.findall(r'^#+ (.*)', (ROOT / path).read_text(), re.MULTILINE)
            assert anchor in [re.sub(r'[^\w -]', '', heading).strip().lower().replace(' ', '-') for heading in headings], target


def test_pictures_are_small():
    pictures = list((ROOT / 'docs' / 'images').iterdir())
    assert pictures and not [path.name for path in pictures if path.stat().st_size > 200_000]
