"""The import arrows between the rooms of the package."""
import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / 'bevfusion_plugin'
MODULES = sorted(PACKAGE.rglob('*.py'))

# room -> rooms of this package it may import, besides its own
ARROWS = {
    'engine': {'registry', 'version'},
    'ops': {'registry'},
    'models': {'registry', 'ops'},
    'datasets': {'registry', 'ops'},
    'doctor': {'registry', 'engine'},
    'visualization': {'registry', 'ops', 'datasets', 'models', 'engine', 'doctor'},
}
HEAVY = ('mmdet3d', 'mmdet', 'mmcv', 'spconv', 'nuscenes')
LIGHT_ROOMS = ('engine', 'registry', 'version', '__init__')


def room_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix('.py')


def imports_of(path):
    """Full dotted names of everything the file imports, relative imports resolved."""
    package = ('bevfusion_plugin', *path.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = '.'.join(package[:len(package) - node.level + 1]) if node.level else ''
            yield '.'.join(filter(None, (base, node.module)))


@pytest.mark.parametrize('path', MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_rooms_import_only_what_the_design_allows(path):
    room = room_of(path)
    own = {name.split('.')[1] for name in imports_of(path) if name.startswith('bevfusion_plugin.')}
    if room in ARROWS:
        assert own <= ARROWS[room] | {room}, f'{path.name} imports {own - ARROWS[room] - {room}}'
    if room in LIGHT_ROOMS:
        heavy = {name for name in imports_of(path) if name.split('.')[0] in HEAVY}
        assert not heavy, f'{path.name} imports {heavy}'


@pytest.mark.parametrize('path', [path for path in MODULES if room_of(path) == 'doctor'], ids=lambda path: path.name)
def test_the_doctor_imports_heavy_packages_only_when_a_rule_needs_them(path):
    names = {alias.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in ast.parse(path.read_text()).body if isinstance(node, ast.ImportFrom)}
    assert not {name for name in names if name.split('.')[0] in HEAVY}


def test_nothing_imports_the_tools():
    assert not [path for path in MODULES for name in imports_of(path) if name.split('.')[0] == 'tools']


def test_the_package_imports_with_torch_and_mmengine_alone():
    script = ('import sys\n'
              f'blocked = {HEAVY + ("numba", "open3d", "pycocotools", "tensorboard")!r}\n'
              'class Block:\n'
              '    def find_spec(self, name, path=None, target=None):\n'
              '        if name.split(".")[0] in blocked: raise ImportError(name)\n'
              'sys.meta_path.insert(0, Block())\n'
              'import bevfusion_plugin\n'
              'from bevfusion_plugin.registry import HOOKS, OPTIM_WRAPPERS, PARAM_SCHEDULERS\n'
              'for registry in (HOOKS, OPTIM_WRAPPERS, PARAM_SCHEDULERS): registry.import_from_location()\n'
              'print(bevfusion_plugin.__version__)\n')
    result = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
