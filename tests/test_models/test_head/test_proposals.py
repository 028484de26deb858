import pytest
import torch

from bevfusion_plugin.models.head.proposals import best_proposals, cell_centers, first_of_the_highest, local_maxima


def test_cell_centres_run_with_x_slowest():
    assert cell_centers(2, 3)[0].tolist() == [[x + 0.5, y + 0.5] for x in range(2) for y in range(3)]


def test_equal_scores_are_proposed_in_the_order_of_class_and_cell():
    labels, cells, _ = best_proposals(torch.full((1, 10, 16, 16), 0.5), 300, 1, ())
    assert torch.equal(labels[0] * 256 + cells[0], torch.arange(300))


def test_a_proposal_brings_the_scores_of_all_classes_in_its_cell():
    scores = torch.rand(2, 3, 4, 5)
    labels, cells, kept = best_proposals(scores, 7, 1, ())
    for sample in range(2):
        order = scores[sample].flatten().argsort(descending=True)[:7]
        assert (labels[sample] * 20 + cells[sample]).tolist() == order.tolist()
        assert torch.equal(kept[sample], scores[sample].flatten(1)[:, cells[sample]])


def test_kernel_of_one_keeps_every_score():
    scores = torch.rand(1, 2, 5, 4)
    assert torch.equal(local_maxima(scores, 1, ()), scores)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_the_highest_scores_come_as_a_stable_sort_gives_them(dtype):
    scores = (torch.rand(3, 5000, dtype=dtype) * 20).floor() / 20  # 250 equal ones of each of 20
    scores[0] = 0
    scores[1, :7] = torch.finfo(dtype).tiny
    best = first_of_the_highest(scores, 600)
    assert torch.equal(best, scores.argsort(dim=1, descending=True, stable=True)[:, :600])
