"""A training that is stopped and goes on with fewer processes, twice: every update sees the samples it would have seen."""

import json
import signal
from collections import defaultdict

import torch
from launched_tools import TRAIN, Launched

CONFIG = """
default_scope = 'mmengine'
model = dict(type='toy_training.ToyModel')
train_dataloader = dict(batch_size=1, num_workers=1, collate_fn=dict(type='default_collate'),
                        dataset=dict(type='faulty_trainings.NoisyData', length=43),
                        sampler=dict(type='bevfusion_plugin.SeekableSampler', total_batch_size=8))
train_cfg = dict(by_epoch=True, max_epochs=2)
optim_wrapper = dict(type='bevfusion_plugin.AccumulativeAmpOptimWrapper', dtype='float32', accumulative_counts='auto', total_batch_size=8,
                     optimizer=dict(type='SGD', lr=0.01, momentum=0.9))
param_scheduler = [dict(type='bevfusion_plugin.OneCycleParamScheduler', begin=0, end=2, by_epoch=True, convert_to_iter_based=True)]
default_hooks = dict(checkpoint=dict(type='bevfusion_plugin.CheckpointHook', interval=1, max_keep_ckpts=1))
custom_hooks = [dict(type='bevfusion_plugin.WindowHook'), dict(type='bevfusion_plugin.AutoScaleLRHook'), dict(type='bevfusion_plugin.EpochSeedHook'),
                dict(type='faulty_trainings.SampleLogHook', folder={folder!r})]
env_cfg = dict(dist_cfg=dict(backend='gloo'))
randomness = dict(seed=0)
"""
UPDATES = 12  # 43 samples are filled up to 48 an epoch: 6 updates of 8


def run(folder, processes, stop_before=None):
    """Train, or go on, with so many processes; ``stop_before``: an iteration at which rank 0 is told to stop."""
    folder.mkdir(exist_ok=True)
    stop = f"custom_hooks += [dict(type='faulty_trainings.SignalHook', number={int(signal.SIGTERM)}, iteration={stop_before})]\n"
    config = folder / f'with_{processes}.py'
    config.write_text(CONFIG.format(folder=str(folder)) + (stop if stop_before is not None else ''))
    started = Launched([*TRAIN, config, '--work-dir', folder / 'run', '--resume', '--gpus', processes])
    assert started.end() == 0, started.output[-5000:]


def samples_of_updates(folder):
    """Samples of each update, of all ranks of all parts of the run."""
    updates = defaultdict(list)
    for path in folder.glob('samples_*.jsonl'):
        for line in path.read_text().splitlines():
            entry = json.loads(line)
            updates[entry['update']] += entry['samples']
    return {update: sorted(samples) for update, samples in updates.items()}


def test_four_two_and_one_process_make_the_updates_of_an_uninterrupted_run(tmp_path):
    run(tmp_path / 'whole', 1)
    run(tmp_path / 'parts', 4, stop_before=5)  # in the third window of two micro-batches: it stops after update 3, inside epoch 1
    run(tmp_path / 'parts', 2, stop_before=29)  # of 24 micro-batches an epoch; after update 8, inside epoch 2
    run(tmp_path / 'parts', 1)
    whole, parts = samples_of_updates(tmp_path / 'whole'), samples_of_updates(tmp_path / 'parts')
    assert sorted(whole) == sorted(parts) == list(range(UPDATES))
    assert parts == whole and all(len(samples) == 8 for samples in whole.values())
    ends = [torch.load(tmp_path / name / 'run' / 'epoch_2.pth', weights_only=True) for name in ('parts', 'whole')]
    for name, value in ends[1]['state_dict'].items():
        torch.testing.assert_close(ends[0]['state_dict'][name], value, rtol=0, atol=1e-10)
    assert ends[0]['optimizer']['window'] == ends[1]['optimizer']['window']
    assert ends[0]['param_schedulers'] == ends[1]['param_schedulers']
