import torch

from bevfusion_plugin.models.head.match_costs import BBoxBEVL1Cost, IoU3DCost

RANGE = dict(point_cloud_range=[-10.0, -20.0, -5.0, 10.0, 20.0, 3.0])


def test_costs_can_be_checked_by_hand():
    # 5 m of 20 m in x and 10 m of 40 m in y
    assert BBoxBEVL1Cost(weight=2.0)(torch.tensor([[5.0, 0.0]]), torch.tensor([[0.0, 10.0]]), RANGE).item() == 1.0
    assert IoU3DCost(weight=0.25)(torch.tensor([[0.5]])).item() == -0.125
