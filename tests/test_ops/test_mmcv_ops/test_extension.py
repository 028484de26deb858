import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import bevfusion_plugin
from bevfusion_plugin.ops.mmcv_ops import extension, operators
from bevfusion_plugin.ops.mmcv_ops.extension import ORIGIN, OperatorFinder, missing_operator, provide_operators, takes_our_operators


def has_compiled():
    folder = Path(importlib.util.find_spec('mmcv').origin).parent
    return any(folder.glob('_ext.*'))


lite = pytest.mark.skipif(has_compiled(), reason='mmcv has compiled operators here; the test is about an mmcv without them')


def run(code):
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def test_the_finder_knows_one_module_only():
    assert OperatorFinder().find_spec('mmcv._ext').origin == ORIGIN
    assert OperatorFinder().find_spec('mmcv.ops') is None and OperatorFinder().find_spec('numpy') is None


def test_there_is_one_finder_and_it_stands_behind_pythons_own():
    provide_operators()
    places = [place for place, finder in enumerate(sys.meta_path) if isinstance(finder, OperatorFinder)]
    paths = sys.meta_path.index(next(finder for finder in sys.meta_path if getattr(finder, '__name__', '') == 'PathFinder'))
    assert len(places) == 1 and places[0] > paths, 'a compiled extension must be found first'


def test_compiled_operators_stay_in_use():
    import mmcv._ext

    assert takes_our_operators() is not has_compiled()
    assert (mmcv._ext.__spec__.origin == ORIGIN) is not has_compiled()


def test_an_operator_without_a_torch_version_names_itself_and_the_cure():
    with pytest.raises(RuntimeError, match='no torch version of ball_query_forward.*pip uninstall mmcv-lite'):
        missing_operator('ball_query_forward')(1, 2, min_radius=3)
    with pytest.raises(AttributeError):
        missing_operator('__path__')


def test_every_operator_that_is_offered_is_there():
    assert all(callable(getattr(operators, name)) for name in operators.__all__)


@lite
@pytest.mark.parametrize(
    'line',
    [
        'import bevfusion_plugin',
        "from mmengine.config import Config; Config.fromfile({config!r})",
        "from mmengine.registry import MODELS; MODELS.get('bevfusion_plugin.BEVFusion')",
        "from mmengine.registry import HOOKS; HOOKS.get('bevfusion_plugin.EMAHook')",
    ],
    ids=['import', 'custom_imports', 'prefix of a model', 'prefix of a hook'],
)
def test_mmdet3d_imports_whichever_way_the_package_came(tmp_path, line):
    config = tmp_path / 'config.py'
    config.write_text("custom_imports = dict(imports=['bevfusion_plugin'])\n")
    said = run(
        line.format(config=str(config)) + '\nfrom mmdet3d.apis import init_model\nimport mmdet3d.models, mmdet3d.datasets, '
        'mmdet3d.evaluation, mmcv._ext\nprint(mmcv._ext.__spec__.origin)'
    )
    assert said.split()[-1] == ORIGIN


@lite
def test_what_asks_for_the_operators_is_answered_and_not_deceived():
    said = run(
        'import bevfusion_plugin, mmcv.ops\n'
        'from mmcv.utils import collect_env\n'
        'from mmcv.utils.ext_loader import check_ops_exist\n'
        'from mmengine.utils.dl_utils import mmcv_full_available\n'
        'env = collect_env()\n'
        'print(mmcv_full_available(), check_ops_exist(), env["MMCV Compiler"], env["MMCV CUDA Compiler"], sep="|")'
    )
    assert said.strip().split('|') == ['True', 'True', 'none: torch operators of bevfusion_plugin', 'not available']


def test_importing_the_package_imports_no_mmcv():
    assert run('import sys, bevfusion_plugin; print([name for name in sys.modules if name.startswith("mmcv")])').strip() == '[]'
    assert bevfusion_plugin.__name__ in extension.ORIGIN
