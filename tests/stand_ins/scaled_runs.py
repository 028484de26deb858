"""Runs whose learning rate a hook scales by the total batch, and their curves."""

import copy

import torch
from toy_training import toy_runner

HOOK = dict(type='bevfusion_plugin.AutoScaleLRHook')
WRAPPER = dict(
    type='bevfusion_plugin.AccumulativeAmpOptimWrapper',
    dtype='float32',
    accumulative_counts=2,
    optimizer=dict(type='AdamW', lr=1e-3, betas=(0.9, 0.99)),
)
LR = 1e-3
SCHEDULES = {
    'cosine': [dict(type='CosineAnnealingLR', by_epoch=False, T_max=16, eta_min=1e-5)],
    'linear then cosine': [
        dict(type='LinearLR', start_factor=1 / 3, by_epoch=False, end=4),
        dict(type='CosineAnnealingLR', by_epoch=True, begin=0, T_max=2, eta_min_ratio=1e-3, convert_to_iter_based=True),
    ],
    'mmdet3d cyclic': [
        dict(type='CosineAnnealingLR', T_max=1, eta_min=LR * 10, begin=0, end=1, by_epoch=True, convert_to_iter_based=True),
        dict(type='CosineAnnealingLR', T_max=1, eta_min=LR * 1e-4, begin=1, end=2, by_epoch=True, convert_to_iter_based=True),
        dict(type='CosineAnnealingMomentum', T_max=1, eta_min=0.85 / 0.95, begin=0, end=1, by_epoch=True, convert_to_iter_based=True),
        dict(type='CosineAnnealingMomentum', T_max=1, eta_min=1, begin=1, end=2, by_epoch=True, convert_to_iter_based=True),
    ],
    'one-cycle of MMEngine': [dict(type='OneCycleLR', eta_max=LR, total_steps=16, by_epoch=False)],
    'multi-step': [
        dict(type='MultiStepLR', milestones=[3, 9], by_epoch=False),
        dict(type='LinearMomentum', start_factor=0.5, end=5, by_epoch=False),
    ],
    'poly': [dict(type='PolyLR', eta_min=1e-5, by_epoch=False)],
    'restarts': [dict(type='CosineRestartLR', periods=[8, 8], restart_weights=[1, 0.5], eta_min=1e-5, by_epoch=False)],
    'our one-cycle': [dict(type='bevfusion_plugin.OneCycleParamScheduler', moms=(0.9, 0.8), convert_to_iter_based=True)],
    'our one-cycle, absolute': [dict(type='bevfusion_plugin.OneCycleParamScheduler', eta_max=3e-3, convert_to_iter_based=True)],
    'our staircase': [dict(type='bevfusion_plugin.CosineAnnealingParamScheduler', warmup_iters=3, convert_to_iter_based=True)],
    'our steps with a floor': [
        dict(type='bevfusion_plugin.StepDecayLR', milestones=[1], gamma=1e-3, eta_min=1e-4, convert_to_iter_based=True)
    ],
    'none': None,
}


class Recorder:
    """Keeps LR and beta1 of every group, as each micro-batch sees them."""

    priority = 'VERY_HIGH'

    def __init__(self):
        self.lrs, self.moms, self.base_lrs = [], [], []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        wrapper = runner.optim_wrapper
        self.lrs.append(wrapper.get_lr()['lr'])
        self.moms.append(wrapper.get_momentum()['momentum'])
        self.base_lrs.append(wrapper.get_lr().get('base_lr', [None])[0])


def curves(folder, schedule, auto_scale_lr, hooks=(HOOK,), wrapper=WRAPPER, **overrides):
    """LR and beta1 of every micro-batch of a short training of 8 micro-batches of 2 samples an epoch."""
    folder.mkdir(exist_ok=True)
    runner = toy_runner(
        folder,
        param_scheduler=copy.deepcopy(schedule),
        auto_scale_lr=auto_scale_lr,
        custom_hooks=copy.deepcopy(list(hooks)),
        optim_wrapper=copy.deepcopy(wrapper),
        **overrides,
    )
    recorder = Recorder()
    runner._hooks.insert(0, recorder)
    runner.train()
    return runner, recorder


def rows(values):
    return torch.tensor(values, dtype=torch.float64)
