"""The rooms of the package: the arrows between them, their size, one style of imports."""

import ast
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / 'bevfusion_plugin'
MODULES = sorted(PACKAGE.rglob('*.py'))
MOST_FILES, MOST_LINES = 15, 300

ONE_MACHINE = {'folder_lock', 'parent_watch'}  # what its processes owe each other
GROUND = {'registry', 'ops', 'plan'}
DATA_ROOMS = {'models', 'datasets', 'evaluation', 'conversion', 'synthetic_nuscenes'}
# room -> rooms of this package it may import besides its own and `version`
ARROWS = {
    '__init__': {'engine', 'ops', 'plan'},
    **dict.fromkeys(GROUND | ONE_MACHINE | {'version'}, set()),
    'engine': {'plan', 'registry', 'folder_lock'},
    **dict.fromkeys(DATA_ROOMS, {'registry', 'ops', 'plan'}),
    'synthetic_nuscenes': {'registry', 'ops'} | ONE_MACHINE,
    'doctor': GROUND | DATA_ROOMS | {'engine'},
    'visualization': {'doctor', 'engine', 'plan', 'registry'},
    'launch': {'doctor', 'engine', 'plan', 'parent_watch'},
}
# The same inside the rooms that have rooms of their own.
INNER_ARROWS = {
    'engine': {
        'accumulation': set(),
        'schedules': set(),
        'openpcdet': set(),
        'checkpoints': set(),
        'sampling': set(),
        'hooks': {'accumulation', 'schedules', 'checkpoints', 'sampling'},
    },
    'models': {'camera': set(), 'lidar': set(), 'head': set()},
    'ops': {'sparse': set(), 'mmcv_ops': set()},
    'doctor': {'reading': set(), 'memory': {'reading'}, 'rules': {'reading', 'memory'}},
    'visualization': {'report': set()},
}
HEAVY = ('mmdet3d', 'mmdet', 'mmcv', 'spconv', 'spconv_triton', 'nuscenes')
HEAVY_ROOMS = {'models', 'ops', 'datasets', 'evaluation', 'synthetic_nuscenes', 'visualization'}


def name_of(path):
    return str(path.relative_to(PACKAGE))


def room_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix('.py')


def imports_of(path, top_level_only=False):
    """Full dotted names of the modules that the file imports, and whether the import is relative."""
    tree = ast.parse(path.read_text())
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, False) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or '', node.level > 0


def own_imports(path):
    """The dotted parts below ``bevfusion_plugin`` of every import from this package."""
    return [name.split('.')[1:] for name, _ in imports_of(path) if name.split('.')[0] == 'bevfusion_plugin']


def offered_names(path):
    """Names that a module imports from others to offer them."""
    return {
        alias.asname or alias.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.ImportFrom) for alias in node.names
    }


@pytest.mark.parametrize('path', MODULES, ids=name_of)
def test_rooms_import_only_what_the_design_allows(path):
    room = room_of(path)
    assert room in ARROWS, f'{room} is a room that the design does not know'
    own = {parts[0] if parts else '__init__' for parts in own_imports(path)}
    assert own <= ARROWS[room] | {room, 'version'}, f'{name_of(path)} imports {own - ARROWS[room] - {room, "version"}}'


@pytest.mark.parametrize('path', [path for path in MODULES if room_of(path) in DATA_ROOMS], ids=name_of)
def test_the_data_rooms_take_from_the_plan_the_checks_of_settings_alone(path):
    assert not [parts for parts in own_imports(path) if parts[:1] == ['plan'] and parts[1:2] != ['checked_settings']]


@pytest.mark.parametrize(
    'path', [path for path in MODULES if room_of(path) in INNER_ARROWS and len(path.relative_to(PACKAGE).parts) > 2], ids=name_of
)
def test_rooms_inside_a_room_import_only_what_the_design_allows(path):
    room, inner = path.relative_to(PACKAGE).parts[:2]
    own = {parts[1] for parts in own_imports(path) if parts[:1] == [room] and len(parts) > 1 and parts[1] in INNER_ARROWS[room]}
    allowed = INNER_ARROWS[room][inner] | {inner}
    assert own <= allowed, f'{name_of(path)} imports {own - allowed}'


@pytest.mark.parametrize('path', [path for path in MODULES if room_of(path) == 'doctor'], ids=name_of)
def test_the_doctor_opens_the_data_rooms_only_when_a_question_needs_them(path):
    names = [name.split('.') for name, _ in imports_of(path, top_level_only=True)]
    assert not {parts[1] for parts in names if parts[0] == 'bevfusion_plugin' and len(parts) > 1} & DATA_ROOMS


@pytest.mark.parametrize('path', [path for path in MODULES if room_of(path) not in HEAVY_ROOMS], ids=name_of)
def test_mmdet3d_and_its_like_are_imported_only_in_their_rooms(path):
    names = [name for name, _ in imports_of(path, top_level_only=room_of(path) == 'doctor')]  # the doctor does inside functions
    assert not [name for name in names if name.split('.')[0] in HEAVY]


@pytest.mark.parametrize('path', MODULES, ids=name_of)
def test_imports_have_one_style(path):
    assert not [name for name, is_relative in imports_of(path) if is_relative], 'write the full name of the module'
    modules = [node.names[0].name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import)]
    assert not [name for name in modules if name.startswith('bevfusion_plugin')], 'from <module> import <names>'


def test_the_console_command_needs_the_standard_library_alone():
    names = {name.split('.')[0] for name, _ in imports_of(ROOT / 'bevfusion_command.py')}
    assert names <= sys.stdlib_module_names, 'it has to start where nothing but the wheel is installed'


def test_nothing_imports_the_tools():
    assert not [name_of(path) for path in MODULES for name, _ in imports_of(path) if name.split('.')[0] == 'tools']


def test_no_folder_and_no_file_is_too_large():
    folders = defaultdict(list)
    for path in MODULES:
        folders[path.parent].append(path.name)
    assert not {name_of(folder): len(files) for folder, files in folders.items() if len(files) > MOST_FILES}
    lengths = {name_of(path): len(path.read_text().splitlines()) for path in MODULES}
    assert not {name: lines for name, lines in lengths.items() if lines > MOST_LINES}


def test_no_two_functions_or_classes_share_a_name():
    homes = defaultdict(list)
    for path in MODULES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith('_'):
                homes[node.name].append(name_of(path))
    assert not {name: files for name, files in homes.items() if len(files) > 1}


def test_no_name_that_a_room_offers_hides_a_module_of_it():
    for path in MODULES:
        if path.name == '__init__.py':
            modules = {other.stem for other in path.parent.iterdir() if other.suffix == '.py' or other.is_dir()}
            hidden = offered_names(path) & modules
            assert not hidden, f'{name_of(path)}: {hidden}'


@pytest.mark.parametrize('path', [path for path in MODULES if room_of(path) in ('engine', 'plan')], ids=name_of)
def test_the_engine_and_the_plan_know_no_model_and_no_data_set(path):
    """In their code; docstrings and evidence may name where a number comes from."""
    tree = ast.parse(path.read_text())
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node)
    }
    words = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings
    ]
    words += [node.id for node in ast.walk(tree) if isinstance(node, ast.Name)]
    known = [re.sub(r'bevfusion_plugin|mit-han-lab/bevfusion', '', word) for word in words]
    assert not [word for word in known if re.search('nuscenes|bevfusion|swin|transfusion', word, re.IGNORECASE)]


TEXTS = [
    path
    for folder in ('bevfusion_plugin', 'configs', 'tools', 'benchmarks', 'docs', 'tests', '.ci')
    for path in sorted((ROOT / folder).rglob('*'))
    if path.suffix in ('.py', '.md', '.sh', '') and path.is_file()
]
TEXTS += [
    ROOT / name
    for name in (
        'README.md',
        'README_zh-CN.md',
        'CHANGELOG.md',
        'CONTRIBUTING.md',
        'NOTICE',
        'setup.py',
        'Makefile',
        'bevfusion_command.py',
        'pyproject.toml',
    )
]


def test_every_module_that_a_text_names_is_there():
    """In code, docstrings and pages, as a dotted name or as a path: nobody is sent to a place that has moved."""
    gone = []
    for path in TEXTS:
        for name in re.findall(r'\bbevfusion_plugin((?:[./][a-z][a-z0-9_]*)+)', path.read_text(errors='ignore')):
            place, parts = PACKAGE, re.split('[./]', name.removesuffix('.py'))[1:]
            while parts and (place / parts[0]).is_dir():
                place = place / parts.pop(0)
            is_there = not parts or (place / f'{parts[0]}.py').is_file() or parts[0] in offered_names(place / '__init__.py')
            gone += [] if is_there else [f'{path.relative_to(ROOT)}: bevfusion_plugin{name}']
    assert not gone


def test_the_package_imports_with_torch_and_mmengine_alone():
    script = (
        'import sys\n'
        f'blocked = {HEAVY + ("numba", "open3d", "pycocotools", "tensorboard")!r}\n'
        'class Block:\n'
        '    def find_spec(self, name, path=None, target=None):\n'
        '        if name.split(".")[0] in blocked: raise ImportError(name)\n'
        'sys.meta_path.insert(0, Block())\n'
        'import bevfusion_plugin\n'
        'from bevfusion_plugin.registry import HOOKS, OPTIM_WRAPPERS, PARAM_SCHEDULERS\n'
        'for registry in (HOOKS, OPTIM_WRAPPERS, PARAM_SCHEDULERS): registry.import_from_location()\n'
        'print(bevfusion_plugin.__version__)\n'
    )
    result = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
