import pytest
import torch

from bevfusion_plugin.ops import SparseTensor


def test_dense_puts_each_site_at_its_sample_and_cell():
    indices = torch.tensor([[0, 1, 2, 3], [1, 0, 0, 0]], dtype=torch.int32)
    features = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    dense = SparseTensor(features, indices, (2, 3, 4), 3).dense()
    assert dense.shape == (3, 2, 2, 3, 4)
    assert dense[0, :, 1, 2, 3].tolist() == [1.0, 2.0] and dense[1, :, 0, 0, 0].tolist() == [3.0, 4.0]
    assert dense.sum() == 10
    (dense * torch.arange(dense.numel()).view(dense.shape)).sum().backward()
    assert features.grad.tolist() == [[23.0, 47.0], [48.0, 72.0]]


def test_other_features_on_the_same_sites_share_what_is_known_about_them():
    x = SparseTensor(torch.zeros(1, 2), torch.zeros(1, 4, dtype=torch.int32), (2, 2, 2), 1)
    y = x.replace_feature(torch.ones(1, 5))
    assert y.cache is x.cache and y.features.shape == (1, 5) and not x.features.any()


@pytest.mark.parametrize('site', [[0, 0, 0, 4], [0, 2, 0, 0], [0, 0, 3, 0], [1, 0, 0, 0], [0, -1, 0, 0]])
def test_a_site_outside_the_grid_or_batch_is_refused(site):
    indices = torch.tensor([[0, 1, 1, 1], site], dtype=torch.int32)
    with pytest.raises(ValueError, match=r'site .* lies outside the batch and grid \(1, 2, 3, 4\)'):
        SparseTensor(torch.zeros(2, 1), indices, (2, 3, 4), 1).check()


@pytest.mark.parametrize('shape', [(2, 3), (3, 4)])
def test_indices_that_do_not_fit_the_features_are_refused(shape):
    with pytest.raises(ValueError, match='expected indices'):
        SparseTensor(torch.zeros(2, 1), torch.zeros(shape, dtype=torch.int32), (2, 3, 4), 1).check()
