"""A long training takes no more memory and holds no more files than a short one."""

import gc
import os
from pathlib import Path

from mmengine.hooks import Hook
from toy_training import OPTIM_WRAPPER, ToyData, logged, toy_runner, toy_loader

UPDATES, WARM_UP = 2000, 500


class ResourcesHook(Hook):
    """Resident bytes and open files of this process after some updates."""

    priority = 'LOWEST'

    def __init__(self):
        self.seen = {}

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        updates = runner.optim_wrapper.updates
        if updates in (WARM_UP, UPDATES) and updates not in self.seen:
            gc.collect()
            resident = int(Path('/proc/self/statm').read_text().split()[1]) * os.sysconf('SC_PAGE_SIZE')
            self.seen[updates] = resident, len(os.listdir('/proc/self/fd'))


def test_two_thousand_updates_take_no_more_memory_nor_files_than_five_hundred(tmp_path):
    resources = ResourcesHook()
    ours = (
        'WindowHook',
        'AutoScaleLRHook',
        'TrainingMonitorHook',
        'CheckpointMatchHook',
        'EpochSeedHook',
        'DivergenceSentinelHook',
        'EMAHook',
    )
    runner = toy_runner(
        tmp_path,
        train_cfg=dict(by_epoch=True, max_epochs=20),
        optim_wrapper=dict(OPTIM_WRAPPER, accumulative_counts=2, optimizer=dict(type='SGD', lr=1e-3)),
        train_dataloader=toy_loader(ToyData(UPDATES // 20 * 4), sampler=dict(type='bevfusion_plugin.SeekableSampler')),
        log_level='INFO',
        custom_hooks=[*(dict(type=f'bevfusion_plugin.{name}') for name in ours), resources],
        default_hooks=dict(
            logger=dict(type='bevfusion_plugin.LoggerHook', interval=50),
            runtime_info=dict(type='bevfusion_plugin.RuntimeInfoHook'),
            checkpoint=dict(type='bevfusion_plugin.CheckpointHook', interval=5, max_keep_ckpts=2),
        ),
    )
    runner.train()
    (resident, files), (resident_later, files_later) = resources.seen[WARM_UP], resources.seen[UPDATES]
    assert resident_later < 1.02 * resident
    assert files_later == files
    assert logged(runner).count('Epoch(train)') == UPDATES // 50
    assert len(list(tmp_path.glob('*.pth'))) == 2
