import pytest
import torch
from mmengine.structures import BaseDataElement

from bevfusion_plugin.engine.accumulation.micro_batch import describe_forward


def samples(*metainfos):
    return [BaseDataElement(metainfo=metainfo) for metainfo in metainfos]


@pytest.mark.parametrize(
    'args, kwargs, count',
    [
        ((torch.zeros(5, 3),), {}, 5),
        ((), dict(x=torch.zeros(4, 3), mode='loss'), 4),
        ((), dict(inputs=dict(points=[torch.zeros(9, 5)] * 2), mode='loss'), 2),
        ((), dict(inputs=dict(voxels=dict(coors=torch.zeros(70, 4))), data_samples=samples({}, {}, {})), 3),
        ((torch.tensor(1.0), 'text'), dict(mode='loss'), None),
    ],
)
def test_samples_are_counted_from_whatever_tells(args, kwargs, count):
    assert describe_forward(args, kwargs, {}).samples == count


def test_samples_are_named_by_their_most_telling_key():
    named = samples(dict(token='abc', lidar_path='a.bin'), dict(sample_idx=7), dict(lidar_path='b.bin'), dict(other=1))
    assert describe_forward((), dict(data_samples=named), {}).sample_ids == ['abc', '7', 'b.bin']


def test_terms_are_detached_scalars_as_mmengine_sums_them():
    weight = torch.ones(2, requires_grad=True)
    terms = describe_forward((), {}, dict(one=weight, several=[weight.sum(), 2 * weight], ignored=3)).terms
    assert {name: value.item() for name, value in terms.items()} == dict(one=1.0, several=4.0)
    assert not any(value.requires_grad for value in terms.values())


def test_a_report_names_the_terms_that_are_no_numbers():
    micro_batch = describe_forward(
        (), dict(data_samples=samples(dict(token='abc'))), dict(good=torch.tensor(1.0), bad=torch.tensor(float('nan')))
    )
    micro_batch.iteration, micro_batch.loss = 12, torch.tensor(float('nan'))
    assert str(micro_batch) == 'iteration 12: bad=nan, samples abc'
    assert not micro_batch.is_finite()


def test_a_forward_without_a_dict_of_losses_has_no_terms():
    assert describe_forward((), {}, torch.tensor(1.0)).terms == {}
