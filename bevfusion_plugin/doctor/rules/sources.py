"""Rules that read the source of a config's own components: what they do is not in the config."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from typing import Any

from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from bevfusion_plugin.doctor.case import Case
from bevfusion_plugin.doctor.finding import Problem, rule
from bevfusion_plugin.doctor.reading.config import full_name, is_ours, mapping, precision_of, short_name
from bevfusion_plugin.doctor.reading.model import lifts_images

LIBRARIES = ('torch', 'mmengine', 'builtins')


def source_of(cfg: Config, entry: Any) -> str:
    """Source of the class that ``entry`` builds and of its bases outside of torch and MMEngine; '' if there is no such class."""
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        with MODELS.switch_scope_and_registry(None) as registry:
            found = registry.get(full_name(entry)) if full_name(entry) else None
    classes = [each for each in found.__mro__ if each.__module__.partition('.')[0] not in LIBRARIES] if inspect.isclass(found) else []
    return '\n'.join(textwrap.dedent(inspect.getsource(each)) for each in classes)


def foreign_view_source(case: Case) -> str:
    """Source of a view transform that is not this package's, and of its detector; '' where there is none."""
    if case.quick or not lifts_images(case.cfg) or is_ours(case.cfg.model.view_transform):
        return ''
    view = source_of(case.cfg, case.cfg.model.view_transform)
    return view and view + '\n' + source_of(case.cfg, mapping(case.cfg.get('model')))


@rule('view-transform-precision', 'warning', 'https://github.com/HuangJunJie2017/BEVDet/issues/265')
def check_view_precision(case: Case) -> Iterator[Problem]:
    """A view transform that follows autocast into half precision."""
    source = '' if precision_of(case.cfg) == 'float32' else foreign_view_source(case)
    if source and not names_used(source) & {'autocast', 'force_fp32'}:
        name = short_name(case.cfg.model.view_transform)
        yield Problem(
            f'{name} does not leave autocast: in half precision frustum points move by whole cells, and heatmaps turn to NaN',
            f'use bevfusion_plugin.{name} or train in float32',
        )


@rule('points-changed-in-place', 'warning', 'https://github.com/mit-han-lab/bevfusion/issues/419')
def check_points_untouched(case: Case) -> Iterator[Problem]:
    """A view transform that moves the lidar branch's points."""
    source = foreign_view_source(case) if precision_of(case.cfg) == 'float32' else ''
    changed = [] if 'deepcopy' in names_used(source) else views_changed_in_place(source, 'points')
    if changed:
        yield Problem(
            f'{short_name(case.cfg.model.view_transform)} changes {changed[0]}, a view of the points, in place: in '
            'float32 the lidar branch then sees points without their translation (about 3 mAP)',
            'copy the points first, as bevfusion_plugin does',
        )


def names_used(source: str) -> set[str]:
    """Every name and attribute in the code; words in comments and docstrings do not count."""
    nodes = list(ast.walk(ast.parse(source)))
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    return names | {node.attr for node in nodes if isinstance(node, ast.Attribute)}


def views_changed_in_place(source: str, owner: str) -> list[str]:
    """Names bound to a slice of ``owner`` (``coords = owner[b][:, :3]``) and then changed by ``-=`` and the like."""
    tree = ast.parse(source)
    views = {
        target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and _is_slice_of(node.value, owner)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    return [
        node.target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name) and node.target.id in views
    ]


def _is_slice_of(node: ast.expr, owner: str) -> bool:
    if not isinstance(node, ast.Subscript):
        return False
    while isinstance(node, ast.Subscript):
        node = node.value
    return isinstance(node, ast.Name) and node.id == owner
