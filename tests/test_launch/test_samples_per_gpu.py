"""``tools/train.py --samples-per-gpu``: the total batch stays, whatever the micro-batch."""

import sys

import pytest
from launched_tools import TOY
from mmengine.config import Config
from pretended_gpus import pretend_gpus
from tool_loading import load_tool

from bevfusion_plugin.launch import samples_per_gpu
from bevfusion_plugin.launch.own_ranks import planned_gpus
from bevfusion_plugin.launch.samples_per_gpu import set_samples_per_gpu


def recipe(samples=2, counts='auto', **wrapper):
    return Config(
        dict(
            train_dataloader=dict(batch_size=samples),
            optim_wrapper=dict(
                type='bevfusion_plugin.AccumulativeAmpOptimWrapper',
                optimizer=dict(type='SGD', lr=0.1),
                accumulative_counts=counts,
                **wrapper,
            ),
        )
    )


@pytest.fixture
def machine(monkeypatch):
    """Pretends GPUs of so many GiB, and a memory model: 2 GiB and 3.5 a sample."""

    def has(*gib):
        pretend_gpus(monkeypatch, *gib)
        monkeypatch.setattr(samples_per_gpu, 'memory_function', lambda cfg, ranks, gpu_memory: lambda samples: 2 + 3.5 * samples)

    return has


@pytest.mark.parametrize('asked, samples', [('4', 4), ('8', 8), ('auto', 4)])
def test_accumulation_that_follows_the_total_is_left_to_follow(machine, asked, samples):
    machine(24, 24, 24, 24)
    cfg = recipe(total_batch_size=32)
    assert set_samples_per_gpu(cfg, asked, 4) == cfg.train_dataloader.batch_size == samples
    assert cfg.optim_wrapper.accumulative_counts == 'auto'


def test_counts_that_are_written_keep_the_total_too(machine):
    machine(24)
    cfg = recipe(samples=3, counts=8)
    assert set_samples_per_gpu(cfg, '2', 4) == 2 and cfg.optim_wrapper.accumulative_counts == 12
    assert set_samples_per_gpu(cfg, 'auto', 4) == 4 and cfg.optim_wrapper.accumulative_counts == 6


@pytest.mark.parametrize(
    'asked, ranks, message',
    [
        ('3', 4, 'no whole accumulative_counts gives total_batch_size 32: .*4 x 2 x A4 = 32'),
        ('0', 4, '--samples-per-gpu must be an int >= 1'),
        ('many', 4, "--samples-per-gpu must be an int >= 1, got 'many'; give a number, or 'auto'"),
        ('auto', 3, 'cannot be dealt to 3 ranks'),
    ],
)
def test_what_cannot_be_is_refused_with_the_mend(machine, asked, ranks, message):
    machine(24)
    with pytest.raises(ValueError, match=message):
        set_samples_per_gpu(recipe(total_batch_size=32), asked, ranks)


def test_auto_needs_a_gpu_and_a_number_needs_a_training(machine):
    machine()
    with pytest.raises(ValueError, match='torch finds none; give a number'):
        set_samples_per_gpu(recipe(total_batch_size=32), 'auto', 4)
    with pytest.raises(ValueError, match='keeps the total batch, and this config has no'):
        set_samples_per_gpu(Config(dict(model=dict())), '2', 4)


def test_a_plan_is_for_the_gpus_that_the_config_names_or_the_machine_has(machine):
    assert planned_gpus(Config(dict(num_gpus=4))) == 4
    machine(24, 24)
    assert planned_gpus(Config(dict())) == 2
    machine()
    assert planned_gpus(Config(dict())) == 1


def test_all_ranks_get_the_number_that_was_found(machine, monkeypatch, tmp_path):
    machine(24, 24)
    tool, started = load_tool('train'), []
    monkeypatch.setattr(tool, 'start_ranks', lambda *args: started.append(args) or 0)
    config = tmp_path / 'toy.py'
    config.write_text(TOY)
    assert tool.main([str(config), '--work-dir', str(tmp_path / 'run'), '--samples-per-gpu', 'auto']) == 0
    ((command, ranks),) = started
    assert ranks == 2 and command[0] == sys.executable
    assert command[-4:] == ['--samples-per-gpu', '4', '--launcher', 'pytorch']  # of a total of 8


def test_the_batch_size_of_a_retry_goes_first(tmp_path):
    tool, config = load_tool('train'), tmp_path / 'toy.py'
    config.write_text(TOY)
    arguments = [str(config), '--no-doctor', '--samples-per-gpu', '4', '--cfg-options', 'train_dataloader.batch_size=1']
    assert tool.prepared(tool.parse_args(arguments)).train_dataloader.batch_size == 1
    assert tool.prepared(tool.parse_args(arguments[:4])).train_dataloader.batch_size == 4
