import pytest
import torch
from mmengine.registry import MODELS
from reference_recipes import reference_fusion

from bevfusion_plugin.doctor.case import Case
from bevfusion_plugin.doctor.rules.sources import check_points_untouched, check_view_precision, views_changed_in_place


class SloppyViewTransform(torch.nn.Module):
    """Moves the points it is given, and follows autocast."""

    def forward(self, points):
        for sample in range(len(points)):
            coords = points[sample][:, :3]
            coords -= 1.0


class CarefulViewTransform(torch.nn.Module):
    def forward(self, points):
        with torch.autocast('cuda', enabled=False):
            coords = points[0][:, :3] - 1.0
            return coords


@pytest.fixture
def fusion():
    """The reference with view transforms of the test's own, registered in MMEngine's root."""
    cfg = reference_fusion()
    cfg.default_scope = 'mmengine'
    for kind in (SloppyViewTransform, CarefulViewTransform):
        MODELS.register_module(module=kind, force=True)
    yield cfg
    for kind in (SloppyViewTransform, CarefulViewTransform):
        MODELS.module_dict.pop(kind.__name__)


@pytest.mark.parametrize('name, count', [('SloppyViewTransform', 1), ('CarefulViewTransform', 0), ('NotInstalled', 0)])
def test_points_moved_in_place_are_noticed_in_float32(fusion, name, count):
    fusion.model.view_transform.type = name
    problems = list(check_points_untouched(Case(fusion)))
    assert len(problems) == count and all('changes coords' in problem.message for problem in problems)
    assert not list(check_points_untouched(Case(fusion, quick=True)))


@pytest.mark.parametrize(
    'name, wrapper, count',
    [
        ('SloppyViewTransform', 'AmpOptimWrapper', 1),
        ('SloppyViewTransform', 'OptimWrapper', 0),
        ('CarefulViewTransform', 'AmpOptimWrapper', 0),
    ],
)
def test_a_view_transform_in_half_precision_is_noticed(fusion, name, wrapper, count):
    fusion.model.view_transform.type, fusion.optim_wrapper.type = name, wrapper
    assert len(list(check_view_precision(Case(fusion)))) == count


def test_our_own_view_transform_is_not_read(fusion):
    fusion.model.view_transform.type, fusion.optim_wrapper.type = 'bevfusion_plugin.DepthLSSTransform', 'AmpOptimWrapper'
    assert not list(check_view_precision(Case(fusion)))


@pytest.mark.parametrize(
    'source, changed',
    [
        ('a = points[0][:, :3]\na -= t', ['a']),
        ('a = points[0].clone()\na -= t', []),
        ('a = other[0]\na -= t', []),
        ('a = points[0]\na = a - t', []),
        ('a = points[b]\na *= 2\na += 1', ['a', 'a']),
    ],
)
def test_views_are_told_from_copies(source, changed):
    assert views_changed_in_place(source, 'points') == changed
