import copy
from pathlib import Path

import pytest
import torch
from detector_goldens import build_detector, recorded_batch, total_loss
from goldens import load_golden
from mmengine.config import Config, ConfigDict
from torch import nn

from bevfusion_plugin.models.bevfusion import COMPILED
from bevfusion_plugin.registry import MODELS, build_nested

RECIPES = sorted(path for path in (Path(__file__).parents[2] / 'configs').glob('bevfusion_*.py') if 'demo' not in path.name)


def found(golden, **switches):
    """Losses, gradients and running statistics of the recorded model in float64 with these switches."""
    model = build_nested(MODELS, dict(copy.deepcopy(golden.meta['cfg']), **switches))
    model.load_state_dict(golden.group('sd/'), strict=True)
    model.train().double()
    model.pts_middle_encoder.register_forward_pre_hook(lambda module, args: (args[0].double(), *args[1:]))
    data = model.data_preprocessor(recorded_batch(golden), training=True)
    losses = model.loss(data['inputs'], data['data_samples'])
    total_loss(losses).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return model, dict(losses=total_loss(losses).detach(), **gradients, **dict(model.named_buffers()))


@pytest.fixture(scope='module')
def golden():
    return load_golden('e2e_lidar_cam')


@pytest.fixture(scope='module')
def plain(golden):
    return found(golden)[1]


def check_equal(results, expected):
    assert results.keys() == expected.keys()
    for name, value in results.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-9, atol=1e-10 * float(expected[name].abs().max() + 1), msg=name)


def test_channels_last_changes_where_numbers_lie_and_nothing_else(golden, plain):
    model, results = found(golden, channels_last=True)
    check_equal(results, plain)
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert all(module.weight.is_contiguous(memory_format=torch.channels_last) for module in convolutions)
    outputs = []
    model.pts_backbone.register_forward_hook(lambda module, args, out: outputs.append(out[0]))
    model.pts_backbone(torch.rand(1, model.pts_backbone.blocks[0][0].in_channels, 16, 16, dtype=torch.float64))
    assert outputs[0].is_contiguous(memory_format=torch.channels_last)
    state = model.state_dict()
    build_detector(golden).load_state_dict(state, strict=True)  # checkpoints go both ways
    model.load_state_dict(golden.group('sd/'))
    assert convolutions[0].weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize('case, backend', [('e2e_lidar_cam', 'eager'), ('e2e_lidar', 'aot_eager')])  # the second traces the backward pass
def test_compiled_parts_are_one_graph_each_and_compute_the_same(case, backend):
    golden, graphs, run = load_golden(case), [], torch._dynamo.lookup_backend(backend)

    def count(graph, inputs):
        graphs.append(graph)
        return run(graph, inputs)

    torch._dynamo.reset()
    model, results = found(golden, compiled=dict(backend=count, fullgraph=True))  # a graph break would be an error
    assert len(graphs) == sum(getattr(model, name) is not None for name in COMPILED)
    check_equal(results, found(golden)[1])
    assert list(model.state_dict()) == list(build_detector(golden).state_dict())


def test_compiling_leaves_checkpointed_parts_alone_and_says_so(golden, monkeypatch):
    messages = []
    monkeypatch.setattr('bevfusion_plugin.models.bevfusion.print_log', lambda message, *args: messages.append(message))
    model = build_nested(MODELS, dict(copy.deepcopy(golden.meta['cfg']), with_cp=True, compiled=dict(backend='eager')))
    assert messages == [f'{name} has activation checkpointing and is not compiled' for name in ('img_backbone', 'img_neck')]
    compiled = [name for name in COMPILED if getattr(model, name)._compiled_call_impl is not None]
    assert compiled == ['fusion_layer', 'pts_backbone', 'pts_neck', 'bbox_head']


@pytest.mark.parametrize('path', RECIPES, ids=lambda path: path.stem)
def test_recipes_pin_their_memory_and_copy_without_waiting(path):
    cfg = Config.fromfile(path)
    assert cfg.train_dataloader.pin_memory is True and cfg.model.data_preprocessor.non_blocking is True
    assert (cfg.model.with_cp, cfg.model.channels_last, cfg.model.compiled, cfg.env_cfg.cudnn_benchmark) == (False,) * 4


def test_nothing_switches_tf32_on_in_matrix_products():
    build_nested(MODELS, ConfigDict(load_golden('e2e_lidar').meta['cfg']))
    assert torch.get_float32_matmul_precision() == 'highest'
