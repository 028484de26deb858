"""Every command and snippet of the pages is run or parsed here, or says what it needs: a GPU, nuScenes, a cluster, the network."""

import os
import re
import subprocess
import sys

import pytest
from page_reading import PAGES, ROOT, blocks, commands
from tool_loading import TOOLS, load_tool

from bevfusion_plugin.launch.config_file import load_config

MARK = re.compile(r'\b(GPU|nuScenes|cluster|network)\b')
YOURS = re.compile(r'\bmy_\w+')  # a file of the reader's
# commands of other programs, or ones that take minutes -> the test that runs them
ELSEWHERE = {
    'make demo': 'tests/test_package/test_newcomer.py',
    'bevfusion demo': 'tests/test_package/test_newcomer.py',
    'mim train bevfusion_plugin bevfusion_demo.py --work-dir work_dirs/mim': 'tests/test_package/test_newcomer.py',
    'make env': '.ci/run',
    'make test': '.ci/run',
    'make lint': '.ci/run',
    'make docs': '.ci/run',
    '.ci/run': '.ci/run',
    'python benchmarks/gpu.py --device cpu --small --out DIR': 'tests/test_benchmarks/test_gpu.py',
}
RUN_HERE = ('plan', 'doctor', 'plot_schedule')  # seconds on a CPU; the others are parsed
CASES = sorted({(command.words, bool(MARK.search(command.comment)), page.name) for page in PAGES for command in commands(page.read_text())})


def identity(case):
    return f'{case[2]}: {" ".join(case[0])}'[:80]


def tool_and_arguments(words):
    """(name of one of our tools, its arguments), or None for another program."""
    if words[0] == 'bevfusion':
        return words[1].replace('-', '_'), list(words[2:])
    script = re.fullmatch(r'tools/(\w+)\.py', words[1]) if words[0] == 'python' and len(words) > 1 else None
    return (script[1], list(words[2:])) if script else None


@pytest.mark.parametrize('words, is_marked, page', CASES, ids=map(identity, CASES))
def test_a_command_names_a_tool_with_its_flags_or_says_what_it_needs(words, is_marked, page):
    found = tool_and_arguments(words)
    if words[0] == 'cp':  # of one of our files, which the next test looks for
        return
    if found is None or ' '.join(words) in ELSEWHERE:
        assert is_marked or (ROOT / ELSEWHERE.get(' '.join(words), 'nowhere')).is_file(), f'{" ".join(words)}: say what it needs'
        return
    name, arguments = found
    assert (TOOLS / f'{name}.py').is_file(), words
    try:
        load_tool(name).parse_args(arguments)
    except SystemExit as stop:
        pytest.fail(f'{" ".join(words)} ends with status {stop.code}')


@pytest.mark.parametrize('words', sorted({case[0] for case in CASES}), ids=' '.join)
def test_files_that_a_command_names_are_there(words):
    for word in words:
        if YOURS.search(word):
            continue
        if re.match(r'(configs|tools|benchmarks|tests|requirements|\.ci|docs)/', word):
            assert (ROOT / word).exists(), f'{" ".join(words)}: {word}'
        elif re.fullmatch(r'bevfusion\w*\.py', word):
            assert (ROOT / 'configs' / word).is_file(), f'{" ".join(words)}: {word}'


RUNS = sorted(
    {
        ('tools/' + found[0] + '.py', *found[1])
        for case in CASES
        if (found := tool_and_arguments(case[0])) and found[0] in RUN_HERE and not case[1] and not YOURS.search(' '.join(case[0]))
    }
)


@pytest.mark.parametrize('words', RUNS, ids=' '.join)
def test_what_needs_nothing_runs(words, tmp_path):
    words = [str(ROOT / word) if re.match('(configs|tools)/', word) else word for word in words]
    done = subprocess.run(
        [sys.executable, *words],
        cwd=tmp_path,
        env=dict(os.environ, PYTHONPATH=str(ROOT), CUDA_VISIBLE_DEVICES=''),
        capture_output=True,
        text=True,
    )
    assert done.returncode in (0, 1) and done.stdout, done.stderr[-2000:]  # 1: there is something to say about the recipe or this machine


SNIPPETS = sorted({block.text: page.name for page in reversed(PAGES) for block in blocks(page.read_text(), 'python')}.items())  # once each


@pytest.mark.parametrize('text, page', [snippet for snippet in SNIPPETS if re.match('(import|from) ', snippet[0])])
def test_a_program_runs(text, page, tmp_path):
    done = subprocess.run(
        [sys.executable, '-c', text],
        cwd=tmp_path,
        env=dict(os.environ, PYTHONPATH=str(ROOT), CUDA_VISIBLE_DEVICES=''),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f'{page}: {done.stderr[-2000:]}'


@pytest.mark.parametrize(
    'text, page', [snippet for snippet in SNIPPETS if re.match(r'\w+ = ', snippet[0]) and 'bevfusion_plugin.' in snippet[0]]
)
def test_a_piece_of_config_loads_and_its_types_are_found(text, page, tmp_path):
    from bevfusion_plugin.registry import HOOKS, OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS, PARAM_SCHEDULERS

    (tmp_path / 'piece.py').write_text(text)
    load_config(tmp_path / 'piece.py')
    registries = [registry.parent for registry in (HOOKS, OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS, PARAM_SCHEDULERS)]
    names = re.findall(r"'(bevfusion_plugin\.\w+)'", text)
    assert names
    for name in names:
        assert any(registry.get(name) for registry in registries), f'{page}: {name}'
