import torch

from bevfusion_plugin.models.head.circle_nms import circle_nms_mask


def test_circle_nms_equals_a_loop_and_leaves_other_classes_alone():
    boxes, scores, labels = torch.rand(60, 9) * 3, torch.rand(60), torch.randint(3, (60,))
    radius = {1: 0.2, 2: 0.5}
    kept = circle_nms_mask(boxes, scores, labels, radius)
    for label, squared in radius.items():
        best = []
        for i in sorted((labels == label).nonzero().squeeze(1).tolist(), key=lambda i: -scores[i]):
            if all((boxes[i, :2] - boxes[j, :2]).square().sum() > squared for j in best):
                best.append(i)
        assert sorted(best) == (kept & (labels == label)).nonzero().squeeze(1).tolist()
    assert kept[labels == 0].all() and not kept.all()
