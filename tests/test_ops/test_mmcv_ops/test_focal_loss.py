import pytest
import torch
import torch.nn.functional as F

import bevfusion_plugin  # noqa: F401  before mmdet
from bevfusion_plugin.ops.mmcv_ops.focal_loss import class_weights, focal_terms


@pytest.mark.parametrize('gamma, alpha', [(2.0, 0.25), (0.0, 0.5), (1.5, 0.9)])
def test_loss_and_derivative_equal_those_of_mmdets_formula(gamma, alpha):
    from mmdet.models.losses.focal_loss import py_sigmoid_focal_loss

    logits = (torch.randn(50, 4, dtype=torch.float64) * 4).requires_grad_()
    targets = torch.randint(0, 5, (50,))
    one_hot = F.one_hot(targets, 5)[:, :4]
    expected = py_sigmoid_focal_loss(logits, one_hot.double(), gamma=gamma, alpha=alpha, reduction='none')
    loss, slope = focal_terms(logits.detach(), targets, gamma, alpha)
    torch.testing.assert_close(loss, expected.detach())
    torch.testing.assert_close(slope, torch.autograd.grad(expected.sum(), logits)[0])


def test_a_certain_mistake_stays_finite():
    loss, slope = focal_terms(torch.tensor([[-200.0, 200.0]]), torch.tensor([0]), 2.0, 0.25)
    assert loss.isfinite().all() and slope.isfinite().all() and (loss > 10).all()


def test_one_value_by_hand():
    loss, slope = focal_terms(torch.zeros(1, 1), torch.tensor([0]), 2.0, 0.25)
    assert loss.item() == pytest.approx(0.25 * 0.25 * 0.6931472)
    assert slope.item() == pytest.approx(-0.25 * 0.25 * (0.5 + 2 * 0.5 * 0.6931472))


def test_weights_are_those_of_the_target_and_background_has_one():
    assert class_weights(torch.zeros(0), torch.tensor([0])) == 1.0
    assert class_weights(torch.tensor([2.0, 3.0]), torch.tensor([1, 0, 2])).tolist() == [[3.0], [2.0], [1.0]]


def test_no_predictions():
    loss, slope = focal_terms(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long), 2.0, 0.25)
    assert loss.shape == slope.shape == (0, 3)
