import itertools

import pytest
import torch
from waits_of_the_host import WaitsOfTheHost

from bevfusion_plugin.ops.sparse.kernel_map import strided_map, subm_map

SHAPE = (6, 5, 7)
SUBM = [(3, 3, 3), (1, 1, 3), (5, 1, 3), (3, 5, 1), (1, 1, 1)]
STRIDED = [
    ((3, 3, 3), (2, 2, 2), (1, 1, 1)),
    ((3, 3, 3), (2, 2, 2), (1, 1, 0)),
    ((1, 1, 3), (1, 1, 2), (0, 0, 0)),
    ((2, 3, 1), (3, 1, 2), (1, 0, 2)),
    ((1, 1, 1), (2, 2, 2), (0, 0, 0)),
]


def random_sites(density=0.15):
    """(V, 4) sites of 2 samples in random order."""
    sites = (torch.rand(2, *SHAPE) < density).nonzero().int()
    return sites[torch.randperm(len(sites))]


def meetings_site_by_site(inputs, outputs, kernel_size, stride, padding):
    """The slow obvious version: the set of (offset, input row, output row)."""
    row = {tuple(site): i for i, site in enumerate(inputs.tolist())}
    meetings = set()
    for j, (sample, *cell) in enumerate(outputs.tolist()):
        for k, place in enumerate(itertools.product(*map(range, kernel_size))):
            site = (sample, *(c * s - p + o for c, s, p, o in zip(cell, stride, padding, place)))
            if site in row:
                meetings.add((k, row[site], j))
    return meetings


def meetings_of(kernel_map):
    """The same from each of the forms of a map."""
    v, w = kernel_map.n_inputs, kernel_map.n_outputs
    by_output, by_input = kernel_map.inputs_of_outputs, kernel_map.outputs_of_inputs
    assert by_output.dtype == by_input.dtype == torch.int32 and by_output.is_contiguous()
    assert len(by_output) == w and len(by_input) == v and by_output.max() <= v and by_input.max() <= w
    pairs = {(k, i, j) for k, rows in kernel_map.pairs.items() for i, j in torch.stack(rows, dim=1).tolist()}
    if kernel_map.middle is not None:
        assert kernel_map.middle not in kernel_map.pairs
        pairs |= {(kernel_map.middle, i, i) for i in range(v)}
    return [
        {(k, i, j) for j, row in enumerate(by_output.tolist()) for k, i in enumerate(row) if i < v},
        {(k, i, j) for i, row in enumerate(by_input.tolist()) for k, j in enumerate(row) if j < w},
        pairs,
    ]


@pytest.mark.parametrize('kernel_size', SUBM)
def test_a_site_meets_its_neighbours_in_a_submanifold_convolution(kernel_size):
    sites = random_sites()
    expected = meetings_site_by_site(sites, sites, kernel_size, (1, 1, 1), [k // 2 for k in kernel_size])
    for meetings in meetings_of(subm_map(sites, 2, SHAPE, kernel_size)):
        assert meetings == expected


@pytest.mark.parametrize('settings', STRIDED)
def test_a_site_meets_what_reaches_it_in_a_strided_convolution(settings):
    sites = random_sites()
    outputs, _, kernel_map = strided_map(sites, 2, SHAPE, *settings)
    expected = meetings_site_by_site(sites, outputs, *settings)
    assert {j for _, _, j in expected} == set(range(len(outputs)))
    for meetings in meetings_of(kernel_map):
        assert meetings == expected


def test_no_site_meets_none():
    sites = torch.zeros(0, 4, dtype=torch.int32)
    outputs, _, strided = strided_map(sites, 2, SHAPE, *STRIDED[0])
    assert outputs.shape == (0, 4)
    for kernel_map in (subm_map(sites, 2, SHAPE, (3, 3, 3)), strided):
        assert kernel_map.inputs_of_outputs.shape == kernel_map.outputs_of_inputs.shape == (0, 27) and not kernel_map.pairs


@pytest.mark.parametrize('kernel_size', SUBM)
def test_a_grid_with_more_cells_than_int32_counts_changes_nothing(kernel_size):
    sites, tall = random_sites(), (2**11, 2**11, 2**11)
    here, there = (subm_map(sites, 2, shape, kernel_size) for shape in (SHAPE, tall))
    assert torch.equal(here.inputs_of_outputs, there.inputs_of_outputs)
    settings = kernel_size, (1, 1, 1), [k // 2 for k in kernel_size]
    (outputs, _, here), (far, _, there) = (strided_map(sites, 2, shape, *settings) for shape in (SHAPE, tall))
    inside = (far[:, 1:] < torch.tensor(SHAPE)).all(dim=1)  # the small grid cuts off what reaches over its border
    assert torch.equal(outputs, far[inside]) and torch.equal(here.inputs_of_outputs, there.inputs_of_outputs[inside])


def test_sites_in_another_order_in_memory_meet_the_same():
    sites = random_sites()
    turned = sites.t().contiguous().t()
    assert torch.equal(subm_map(turned, 2, SHAPE, (3, 3, 3)).inputs_of_outputs, subm_map(sites, 2, SHAPE, (3, 3, 3)).inputs_of_outputs)


def test_the_host_waits_only_for_the_number_of_sites_that_a_strided_convolution_leaves():
    sites = random_sites()
    with WaitsOfTheHost() as waits:
        kernel_map = subm_map(sites, 2, SHAPE, (3, 3, 3))
        kernel_map.inputs_of_outputs, kernel_map.outputs_of_inputs
    assert waits.names == []
    with WaitsOfTheHost() as waits:
        _, _, kernel_map = strided_map(sites, 2, SHAPE, *STRIDED[0])
        kernel_map.inputs_of_outputs, kernel_map.outputs_of_inputs
    assert waits.names == ['_local_scalar_dense']
